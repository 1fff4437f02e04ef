"""Records as text for people, in the wording that users of Higgs trainers know. Pure: text in, text out."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from sinks.protocol import Record

_IGNORED = -100
_RED, _BOLD, _DIM, _RESET = "\x1b[1;31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"


def printable(text: str) -> str:
    r"""Escape what a terminal would obey or hide: controls, format characters, surrogates, line separators.

    Every script passes. A text with right-to-left letters is isolated, so that it cannot reorder its line.
    """
    escaped = "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in text
    )
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in escaped):
        return f"{_FIRST_STRONG_ISOLATE}{escaped}{_POP_ISOLATE}"
    return escaped


def render(record: Record, *, color: bool = False) -> str:
    """Render one record as one or more lines, without the newline at the end.

    Args:
        record: what a sink is given.
        color: mark mismatches by colour; without it they carry a `*`.
    """
    renderer = _RENDERERS.get(record["event"], _render_other)
    return renderer(record, color)


def _style(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{_RESET}" if color else text


def _number(value: float | None, spec: str = ".4f") -> str:
    return "n/a" if value is None else format(value, spec)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _render_run_start(record: Record, color: bool) -> str:
    resumed = record["resumed_from_step"]
    head = f"run {printable(record['run_id'])}" + (f", resumed from step {resumed}" if resumed is not None else "")
    facts = (
        f"{_plural(record['num_train_samples'], 'training sample')}, {record['num_eval_samples']:,} for evaluation",
        _plural(record["num_codebooks"], "codebook"),
        f"{_plural(record['trainable_parameters'], 'trainable parameter')}",
        f"{_plural(record['world_size'], 'process').replace('processs', 'processes')} on {printable(record['device'])}",
        f"seed {record['seed']}",
    )
    return f"{_style(head, _BOLD, color)}: {'; '.join(facts)}"


def _figures(record: Record) -> str:
    accuracies = [value for value in record["audio_accuracy_per_codebook"] if value is not None]
    mean = sum(accuracies) / len(accuracies) if accuracies else None
    first = record["audio_accuracy_per_codebook"][0] if record["audio_accuracy_per_codebook"] else None
    return (
        f"loss {_number(record['loss'])}  text {_number(record['text_loss'])}  audio {_number(record['audio_loss'])}"
        f"  right: text {_percent(record['text_accuracy'])}, codebook 0 {_percent(first)}, all {_percent(mean)}"
    )


def _render_train_step(record: Record, color: bool) -> str:
    head = _style(f"step {record['step']}", _BOLD, color)
    return (
        f"{head}  epoch {_number(record['epoch'], '.2f')}  {_figures(record)}"
        f"  lr {_number(record['learning_rate'], '.2e')}  grad {_number(record['grad_norm'], '.3g')}"
        f"  {_number(record['step_ms'], '.0f')} ms"
    )


def _render_eval_result(record: Record, color: bool) -> str:
    head = _style(f"evaluation at step {record['step']}", _BOLD, color)
    return f"{head}  {_figures(record)}  {_plural(record['num_samples'], 'sample')}"


def _cells(window: Mapping[str, Any]) -> tuple[list[str], list[str], list[bool]]:
    labels = [str(label) for label in window["labels"]]
    wrong = [
        label != _IGNORED and prediction != label
        for prediction, label in zip(window["predictions"], window["labels"], strict=True)
    ]
    predictions = ["-" if prediction is None else str(prediction) for prediction in window["predictions"]]
    return predictions, labels, wrong


def _render_window(title: str, window: Mapping[str, Any], color: bool) -> list[str]:
    predictions, labels, wrong = _cells(window)
    if not color:
        predictions = [f"*{cell}" if bad else cell for cell, bad in zip(predictions, wrong, strict=True)]
    width = max(map(len, (*predictions, *labels)))
    shown = [cell.rjust(width) for cell in predictions]
    if color:
        shown = [_style(cell, _RED, bad) for cell, bad in zip(shown, wrong, strict=True)]
    title = f"{title} {len(labels)}".ljust(len("First 5"))
    return [
        f"  {title} - Predictions: [{', '.join(shown)}]{_decoded(window['predicted_text'], color)}",
        f"  {title} - Labels:      [{', '.join(cell.rjust(width) for cell in labels)}]"
        f"{_decoded(window['label_text'], color)}",
    ]


def _decoded(text: str | None, color: bool) -> str:
    return "" if text is None else "  " + _style(f'"{printable(text)}"', _DIM, color)


def _shape(sizes: Sequence[int]) -> str:
    return f"torch.Size([{', '.join(map(str, sizes))}])"


def _render_prediction_sample(record: Record, color: bool) -> str:
    audio = record["modality"] == "audio"
    split = "" if record["split"] == "train" else f" ({printable(record['split'])})"
    title = (
        f"Audio Prediction vs Label Comparison (Codebook {record['codebook']}){split}:"
        if audio
        else f"Sample {record['sample_index'] + 1} Prediction vs Label Comparison{split}:"
    )
    verdict = f"{record['num_correct']} of {record['num_targets']} right"
    about = verdict if audio else f"{printable(record['sample_id'])}, {verdict}"
    lines = [f"{_style(title, _BOLD, color)}  {_style(about, _DIM, color)}"]
    for name, window in (("First", record["first"]), ("Last", record["last"])):
        if window["labels"]:
            lines += _render_window(name, window, color)
    if not record["num_targets"]:
        lines.append("  no slot of this sample is supervised")
    if audio:
        lines += [
            f"  Logits shape: {_shape(record['logits_shape'])}",
            f"  Labels shape: {_shape(record['labels_shape'])}",
        ]
    return "\n".join(lines)


def _render_checkpoint(record: Record, _color: bool) -> str:
    return f"saved {printable(record['path'])}"


def _render_diagnosis(record: Record, color: bool) -> str:
    return f"{_style(printable(record['severity']), _RED, color)}: {printable(record['message'])}"


def _render_sink_recovered(record: Record, _color: bool) -> str:
    return (
        f"sink {printable(record['sink'])} works again; {_plural(record['lost'], 'event')} lost, "
        f"seq {record['first_seq']} to {record['last_seq']}"
    )


def _render_run_end(record: Record, color: bool) -> str:
    head = _style(f"run ended: {printable(record['reason'])} at step {record['step']}", _BOLD, color)
    return (
        f"{head}; {_plural(record['events_written'], 'event')} written, {record['events_lost']} lost; "
        f"logging took {_number(record['logging_ms_total'], '.0f')} ms"
    )


def _render_other(record: Record, _color: bool) -> str:
    payload = "  ".join(f"{printable(str(key))}={printable(str(value))}" for key, value in record.items())
    return f"{payload}"


_RENDERERS = {
    "run_start": _render_run_start,
    "train_step": _render_train_step,
    "prediction_sample": _render_prediction_sample,
    "eval_result": _render_eval_result,
    "checkpoint": _render_checkpoint,
    "diagnosis": _render_diagnosis,
    "sink_recovered": _render_sink_recovered,
    "run_end": _render_run_end,
}
