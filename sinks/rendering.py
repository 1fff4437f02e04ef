"""Records as text for people, in the wording that users of Higgs trainers know. Pure: a record in, text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sinks.mask_map import render_strip
from sinks.protocol import Record
from sinks.terminal.escape import escaped
from sinks.terminal.fold import folded
from sinks.terminal.style import BOLD, DIM, RED, YELLOW, styled
from sinks.windows import render_windows


class _Look(NamedTuple):
    """How a record is to look: with colour or without, and in how many columns."""

    color: bool
    width: int | None

    def style(self, text: str, code: str) -> str:
        return styled(text, code, self.color)


def render(record: Record, *, color: bool = False, width: int | None = None) -> str:
    """Render one record as one or more lines, without the newline at the end.

    What two runs may differ in may be missing, as it is in a golden: it is left out of the text too.

    Args:
        record: what a sink is given. Its strings are escaped here, once, so that no renderer has to think of it.
        color: mark mismatches by colour; without it they carry a `*`.
        width: columns in which lines are folded, at least `sinks.terminal.fold.NARROWEST`; None: none is.
    """
    safe = escaped(record)
    look = _Look(color, width)
    marks = {name: safe.pop(name) for name in _MARKS if name in safe}
    try:
        text = _RENDERERS[safe["event"]](safe, look)
    except Exception:  # noqa: BLE001 - an event or a field that this version does not know, from whoever sent it
        text = _render_other(safe)
    said = "; ".join(f"{_MARKS[name]}: {_paths(paths)}" for name, paths in marks.items() if paths)
    text += ("\n  " if "\n" in text else "  ") + look.style(f"({said})", DIM) if said else ""
    return text if width is None else folded(text, width)


# What a line may carry beside its payload, in words.
_MARKS = {"nonfinite": "not finite", "replaced": "replaced", "shortened": "shortened"}
_MOST_PATHS = 5
_SEVERITIES = {"note": DIM, "warning": YELLOW, "error": RED}


def _paths(marked: Any) -> str:
    """Name the fields of a mark: a list of paths, or paths and what is said of each."""
    if isinstance(marked, dict):
        paths = [f"{path} ({what:,} long)" if isinstance(what, int) else path for path, what in marked.items()]
    else:
        paths = list(map(_value, marked)) if isinstance(marked, list) else [_value(marked)]
    rest = len(paths) - _MOST_PATHS
    return ", ".join(paths[:_MOST_PATHS]) + (f" and {rest:,} more" if rest > 0 else "")


def _number(value: float | None, spec: str) -> str:
    return "n/a" if value is None else format(value, spec)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _render_run_start(record: Record, look: _Look) -> str:
    run_id, resumed = record.get("run_id"), record.get("resumed_from_step")
    head = look.style("run" if run_id is None else f"run {run_id}", BOLD) + (
        "" if resumed is None else f", resumed from step {resumed}"
    )
    facts = (
        f"{_count(record['num_train_samples'], 'training sample')}, {record['num_eval_samples']:,} for evaluation",
        *([_count(record["num_codebooks"], "codebook")] if record["num_codebooks"] else []),  # none: a model of text
        _count(record["trainable_parameters"], "trainable parameter"),
        f"{_count(record['world_size'], 'process', 'processes')} on {record['device']}",
        f"seed {record['seed']}",
    )
    return f"{head}: {'; '.join(facts)}"


def _figures(record: Record) -> str:
    accuracies = record["audio_accuracy_per_codebook"]
    text = (
        f"loss {_number(record['loss'], '.3f')}"
        f"  text {_number(record['text_loss'], '.3f')}, {_percent(record['text_accuracy'])} right"
    )
    if not accuracies and not record["audio_targets"]:  # a model of text
        return text
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    mean = sum(known) / len(known) if known else None
    return (
        f"{text}"
        f"  audio {_number(record['audio_loss'], '.3f')}, {_percent(mean)} right"
        f" (codebook 0: {_percent(accuracies[0] if accuracies else None)})"
    )


def _render_train_step(record: Record, look: _Look) -> str:
    head = look.style(f"step {record['step']}", BOLD)
    took = f"  {_number(record['step_ms'], '.0f')} ms" if "step_ms" in record else ""
    return (
        f"{head}  epoch {_number(record['epoch'], '.2f')}  {_figures(record)}"
        f"  lr {_number(record['learning_rate'], '.3g')}  grad {_number(record['grad_norm'], '.3g')}{took}"
    )


def _render_eval_result(record: Record, look: _Look) -> str:
    head = look.style(f"evaluation at step {record['step']}", BOLD)
    return f"{head}  {_figures(record)}  {_count(record['num_samples'], 'sample')}"


def _shape(sizes: Sequence[int]) -> str:
    return f"torch.Size([{', '.join(map(str, sizes))}])"


def _render_prediction_sample(record: Record, look: _Look) -> str:
    verdict = f"{record['num_correct']} of {record['num_targets']} right"
    split = "" if record["split"] == "train" else f" ({record['split']})"
    if record["modality"] == "audio":
        title = f"Audio Prediction vs Label Comparison (Codebook {record['codebook']}){split}:"
        shapes = [f"  {name} shape: {_shape(record[f'{name.lower()}_shape'])}" for name in ("Logits", "Labels")]
    else:
        title = f"Sample {record['sample_index'] + 1} Prediction vs Label Comparison{split}:"
        shapes = []
    about = f"{record['sample_id']} at step {record['step']}, {verdict}"
    heading = f"{look.style(title, BOLD)}  {look.style(about, DIM)}"
    windows = {"First": record["first"], "Last": record["last"]}
    return "\n".join([heading, *render_windows(windows, color=look.color, width=look.width), *shapes])


def _render_checkpoint(record: Record, _look: _Look) -> str:
    return f"saved {record['path']}"


def _render_diagnosis(record: Record, look: _Look) -> str:
    severity = record["severity"]
    head = look.style(f"{severity} ({record['code']})", _SEVERITIES.get(severity, BOLD))
    found = f" {record['found']}" if "found" in record else ""  # where, in a log that was looked through
    repeats = record.get("repeats")
    before = f"  ({_count(repeats, 'more time', 'more times')} before)" if repeats else ""
    return "\n".join([f"{head}{found}: {record['message']}{before}", *_strip(record.get("evidence"), look)])


def _strip(evidence: Any, look: _Look) -> list[str]:
    """Draw the sample that a `mask_audit` shows."""
    strips = evidence.get("strip") if isinstance(evidence, dict) else None
    drawn = render_strip(strips, color=look.color, width=look.width)
    return [f"  Sample {evidence['sample']}:", *drawn] if drawn and "sample" in evidence else drawn


def _series(record: Record) -> str:
    """Name what an event is about: text, audio, audio codebook 0, or nothing."""
    modality, codebook = record.get("modality"), record.get("codebook")
    return f"{modality or ''}{'' if codebook is None else f' codebook {codebook}'}".strip()


def _render_token_counts(record: Record, look: _Look) -> str:
    head = look.style(f"token counts of step {record['step']}, {_series(record)}", BOLD)
    facts = [
        f"{head}: {record['num_correct']:,} of {record['num_targets']:,} right",
        f"labels in the sequence at -2 to +2: {_value(record['label_matches'])}",
    ]
    if record["unigram_accuracy"] is not None:
        facts.append(f"the most frequent label alone {_percent(record['unigram_accuracy'])}")
    if record["stop_targets"]:
        stop = f"stop token {record['stop_correct']:,} of {record['stop_targets']:,} right"
        facts.append(f"{stop}, rank {_number(record['stop_rank'], '.1f')}")
    return "; ".join(facts)


def _render_sink_recovered(record: Record, _look: _Look) -> str:
    lost = _count(record["lost"], "event")
    return f"sink {record['sink']} works again; {lost} lost, seq {record['first_seq']} to {record['last_seq']}"


def _render_cap_reached(record: Record, _look: _Look) -> str:
    limit = f"{record['max_total_bytes']:,} bytes"
    return f"sink {record['sink']} stops: its files reached max_total_bytes, {limit}; what follows is not written"


def _render_run_end(record: Record, look: _Look) -> str:
    head = look.style(f"run ended: {record['reason']} at step {record['step']}", BOLD)
    facts = [head]
    if "events_written" in record:
        facts.append(f"{_count(record['events_written'], 'event')} written, {record['events_lost']:,} lost")
    if record.get("values_replaced"):
        facts.append(f"{_count(record['values_replaced'], 'value')} replaced")
    if record.get("diagnoses"):
        found = (f"{code} {_count(count, 'time')}" for code, count in record["diagnoses"].items())
        facts.append(f"diagnoses: {', '.join(found)}")
    if "logging_ms_total" in record:
        facts.append(f"logging took {_number(record['logging_ms_total'], '.0f')} ms")
    return "; ".join(facts)


def _render_other(record: Record) -> str:
    return "  ".join(f"{key}={_value(value)}" for key, value in record.items())


def _value(value: Any, *, nested: bool = False) -> str:
    """Write a value as Python does, but for text that is not hidden by a second escaping."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{key}': {_value(item, nested=True)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item, nested=True) for item in value)}]"
    return f"'{value}'" if nested and isinstance(value, str) else str(value)


_RENDERERS: Mapping[str, Callable[[Record, _Look], str]] = {
    "run_start": _render_run_start,
    "train_step": _render_train_step,
    "prediction_sample": _render_prediction_sample,
    "token_counts": _render_token_counts,
    "eval_result": _render_eval_result,
    "checkpoint": _render_checkpoint,
    "diagnosis": _render_diagnosis,
    "sink_recovered": _render_sink_recovered,
    "cap_reached": _render_cap_reached,
    "run_end": _render_run_end,
}
