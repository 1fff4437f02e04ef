"""Records as text for people, in the wording that users of Higgs trainers know. Pure: a record in, text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sinks.escape import escaped
from sinks.protocol import Record

_IGNORED = -100
_RED, _BOLD, _DIM, _RESET = "\x1b[1;31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"


def render(record: Record, *, color: bool = False) -> str:
    """Render one record as one or more lines, without the newline at the end.

    Args:
        record: what a sink is given. Its strings are escaped here, once, so that no renderer has to think of it.
        color: mark mismatches by colour; without it they carry a `*`.
    """
    safe = escaped(record)
    marks = {name: safe.pop(name) for name in _MARKS if name in safe}
    try:
        text = _RENDERERS[safe["event"]](safe, color)
    except Exception:  # noqa: BLE001 - an event or a field that this version does not know, from whoever sent it
        text = _render_other(safe, color)
    said = "; ".join(f"{_MARKS[name]}: {_paths(paths)}" for name, paths in marks.items() if paths)
    return text + (("\n  " if "\n" in text else "  ") + _style(f"({said})", _DIM, color) if said else "")


# What a line may carry beside its payload, in words.
_MARKS = {"nonfinite": "not finite", "replaced": "replaced", "shortened": "shortened"}
_MOST_PATHS = 5


def _paths(marked: Any) -> str:
    """Name the fields of a mark: a list of paths, or paths and what is said of each."""
    if isinstance(marked, dict):
        paths = [f"{path} ({what:,} long)" if isinstance(what, int) else path for path, what in marked.items()]
    else:
        paths = list(map(_value, marked)) if isinstance(marked, list) else [_value(marked)]
    rest = len(paths) - _MOST_PATHS
    return ", ".join(paths[:_MOST_PATHS]) + (f" and {rest:,} more" if rest > 0 else "")


def _style(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{_RESET}" if color else text


def _number(value: float | None, spec: str) -> str:
    return "n/a" if value is None else format(value, spec)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _render_run_start(record: Record, color: bool) -> str:
    resumed = record["resumed_from_step"]
    head = _style(f"run {record['run_id']}", _BOLD, color) + (
        "" if resumed is None else f", resumed from step {resumed}"
    )
    facts = (
        f"{_count(record['num_train_samples'], 'training sample')}, {record['num_eval_samples']:,} for evaluation",
        _count(record["num_codebooks"], "codebook"),
        _count(record["trainable_parameters"], "trainable parameter"),
        f"{_count(record['world_size'], 'process', 'processes')} on {record['device']}",
        f"seed {record['seed']}",
    )
    return f"{head}: {'; '.join(facts)}"


def _figures(record: Record) -> str:
    accuracies = record["audio_accuracy_per_codebook"]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    mean = sum(known) / len(known) if known else None
    return (
        f"loss {_number(record['loss'], '.3f')}"
        f"  text {_number(record['text_loss'], '.3f')}, {_percent(record['text_accuracy'])} right"
        f"  audio {_number(record['audio_loss'], '.3f')}, {_percent(mean)} right"
        f" (codebook 0: {_percent(accuracies[0] if accuracies else None)})"
    )


def _render_train_step(record: Record, color: bool) -> str:
    head = _style(f"step {record['step']}", _BOLD, color)
    return (
        f"{head}  epoch {_number(record['epoch'], '.2f')}  {_figures(record)}"
        f"  lr {_number(record['learning_rate'], '.3g')}  grad {_number(record['grad_norm'], '.3g')}"
        f"  {_number(record['step_ms'], '.0f')} ms"
    )


def _render_eval_result(record: Record, color: bool) -> str:
    head = _style(f"evaluation at step {record['step']}", _BOLD, color)
    return f"{head}  {_figures(record)}  {_count(record['num_samples'], 'sample')}"


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of token ids, before its columns are as wide as those of its neighbours."""

    title: str
    kind: str
    cells: Sequence[str]
    wrong: Sequence[bool]
    text: str | None


def _rows(name: str, window: Mapping[str, Any], mark: str) -> list[_Row]:
    """Make the rows of one window: predictions and labels; none of an empty window."""
    labels, predictions = window["labels"], window["predictions"]
    if not labels:
        return []
    title = f"{name} {len(labels)}"
    wrong = [label not in (_IGNORED, predicted) for label, predicted in zip(labels, predictions, strict=True)]
    cells = [
        (mark if is_wrong else "") + ("-" if predicted is None else str(predicted))
        for predicted, is_wrong in zip(predictions, wrong, strict=True)
    ]
    return [
        _Row(title, "Predictions:", cells, wrong, window["predicted_text"]),
        _Row(title, "Labels:", [str(label) for label in labels], [False] * len(labels), window["label_text"]),
    ]


def _render_windows(record: Record, color: bool) -> list[str]:
    mark = "" if color else "*"
    rows = [*_rows("First", record["first"], mark), *_rows("Last", record["last"], mark)]
    if not rows:
        return ["  no slot of this sample is supervised"]
    title_width = max(len(row.title) for row in rows)
    width = max(len(cell) for row in rows for cell in row.cells)
    return [_render_row(row, title_width, width, color) for row in rows]


def _render_row(row: _Row, title_width: int, width: int, color: bool) -> str:
    cells = ", ".join(
        _style(cell.rjust(width), _RED, color and is_wrong) for cell, is_wrong in zip(row.cells, row.wrong, strict=True)
    )
    decoded = "" if row.text is None else "  " + _style(f'"{row.text}"', _DIM, color)
    return f"  {row.title:<{title_width}} - {row.kind:<12} [{cells}]{decoded}"


def _shape(sizes: Sequence[int]) -> str:
    return f"torch.Size([{', '.join(map(str, sizes))}])"


def _render_prediction_sample(record: Record, color: bool) -> str:
    verdict = f"{record['num_correct']} of {record['num_targets']} right"
    split = "" if record["split"] == "train" else f" ({record['split']})"
    if record["modality"] == "audio":
        title, about = f"Audio Prediction vs Label Comparison (Codebook {record['codebook']}){split}:", verdict
        shapes = [f"  {name} shape: {_shape(record[f'{name.lower()}_shape'])}" for name in ("Logits", "Labels")]
    else:
        title = f"Sample {record['sample_index'] + 1} Prediction vs Label Comparison{split}:"
        about = f"{record['sample_id']}, {verdict}"
        shapes = []
    heading = f"{_style(title, _BOLD, color)}  {_style(about, _DIM, color)}"
    return "\n".join([heading, *_render_windows(record, color), *shapes])


def _render_checkpoint(record: Record, _color: bool) -> str:
    return f"saved {record['path']}"


def _render_diagnosis(record: Record, color: bool) -> str:
    head = _style(f"{record['severity']} ({record['code']})", _RED, color)
    return f"{head}: {record['message']}"


def _render_sink_recovered(record: Record, _color: bool) -> str:
    lost = _count(record["lost"], "event")
    return f"sink {record['sink']} works again; {lost} lost, seq {record['first_seq']} to {record['last_seq']}"


def _render_cap_reached(record: Record, _color: bool) -> str:
    limit = f"{record['max_total_bytes']:,} bytes"
    return f"sink {record['sink']} stops: its files reached max_total_bytes, {limit}; what follows is not written"


def _render_run_end(record: Record, color: bool) -> str:
    head = _style(f"run ended: {record['reason']} at step {record['step']}", _BOLD, color)
    replaced = f"{_count(record['values_replaced'], 'value')} replaced; " if record.get("values_replaced") else ""
    return (
        f"{head}; {_count(record['events_written'], 'event')} written, {record['events_lost']:,} lost; {replaced}"
        f"logging took {_number(record['logging_ms_total'], '.0f')} ms"
    )


def _render_other(record: Record, _color: bool) -> str:
    return "  ".join(f"{key}={_value(value)}" for key, value in record.items())


def _value(value: Any, *, nested: bool = False) -> str:
    """Write a value as Python does, but for text that is not hidden by a second escaping."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{key}': {_value(item, nested=True)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item, nested=True) for item in value)}]"
    return f"'{value}'" if nested and isinstance(value, str) else str(value)


_RENDERERS: Mapping[str, Callable[[Record, bool], str]] = {
    "run_start": _render_run_start,
    "train_step": _render_train_step,
    "prediction_sample": _render_prediction_sample,
    "eval_result": _render_eval_result,
    "checkpoint": _render_checkpoint,
    "diagnosis": _render_diagnosis,
    "sink_recovered": _render_sink_recovered,
    "cap_reached": _render_cap_reached,
    "run_end": _render_run_end,
}
