"""One function for each event that returns the text of a record. Pure functions on escaped records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sinks.protocol import Record
from sinks.rendering.dataset_audit import SEVERITIES, render_audit
from sinks.rendering.generation import render_generation
from sinks.rendering.mask_map import render_mask_map
from sinks.rendering.token_columns import render_token_columns
from sinks.terminal.style import BOLD, DIM, styled
from sinks.terminal.words import count_of

_ONE_DECIMAL_FROM = 10  # smaller figures have two significant digits


class TextFormat(NamedTuple):
    """Format of the text of a record.

    Attributes:
        color: True if the terminal has colour.
        width: Columns of a line; None for lines of any length.
    """

    color: bool
    width: int | None

    def style(self, text: str, code: str) -> str:
        """Return a text in a style."""
        return styled(text, code, self.color)


def plain(value: Any, *, nested: bool = False) -> str:
    """Return a value as Python writes the value, but without a second escape of backslashes in texts.

    Example:
        >>> plain({"losses": [4.1, None], "path": "a"}), plain("a")
        ("{'losses': [4.1, None], 'path': 'a'}", 'a')
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{key}': {plain(item, nested=True)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(plain(item, nested=True) for item in value)}]"
    return f"'{value}'" if nested and isinstance(value, str) else str(value)


def _number(value: float | None, spec: str) -> str:
    return "n/a" if value is None else format(value, spec)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _run_start(record: Record, text_format: TextFormat) -> str:
    run_id, resumed = record.get("run_id"), record.get("resumed_from_step")
    head = text_format.style("run" if run_id is None else f"run {run_id}", BOLD) + (
        "" if resumed is None else f", resumed from step {resumed}"
    )
    facts = (
        f"{count_of(record['num_train_samples'], 'training sample')}, {record['num_eval_samples']:,} for evaluation",
        *([count_of(record["num_codebooks"], "codebook")] if record["num_codebooks"] else []),  # 0 for a text model
        count_of(record["trainable_parameters"], "trainable parameter"),
        f"{count_of(record['world_size'], 'process', 'processes')} on {record['device']}",
        f"seed {record['seed']}",
    )
    return f"{head}: {'; '.join(facts)}"


def _losses(record: Record) -> str:
    """Return the losses and accuracies of a step or of an evaluation."""
    accuracies = record["audio_accuracy_per_codebook"]
    loss = f"loss {_number(record['loss'], '.3f')}"
    text = f"{loss}  text {_number(record['text_loss'], '.3f')}, {_percent(record['text_accuracy'])} correct"
    if not accuracies and not record["audio_targets"]:  # a text model
        return text
    if not record["text_targets"]:  # a training of speech alone
        text = loss
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    mean = sum(known) / len(known) if known else None
    return (
        f"{text}"
        f"  audio {_number(record['audio_loss'], '.3f')}, {_percent(mean)} correct"
        f" (codebook 0: {_percent(accuracies[0] if accuracies else None)})"
    )


def _train_step(record: Record, text_format: TextFormat) -> str:
    head = text_format.style(f"step {record['step']}", BOLD)
    return (
        f"{head}  epoch {_number(record['epoch'], '.2f')}  {_losses(record)}"
        f"  lr {_number(record['learning_rate'], '.3g')}  grad {_number(record['grad_norm'], '.3g')}{_speed(record)}"
    )


_STRAGGLES_FROM = 1.5  # times the median of the ranks
_LONGEST_S = 1e9  # thirty years; a longer estimate of a damaged log is shown as this


def _speed(record: Record) -> str:
    """Return the duration of a step, and speed and time left where they are known."""
    if "step_ms" not in record:
        return ""
    samples_per_s, left = record.get("samples_per_s"), record.get("seconds_left")
    if record["step_ms"] is None or samples_per_s is None:
        return f"  {_number(record['step_ms'], '.0f')} ms"
    speed = f"  {_short(record['step_ms'] / 1000)} s/step  {_short(samples_per_s)} samples/s{_straggler(record)}"
    return f"{speed}  ETA {_duration(left)}" if left else speed


def _straggler(record: Record) -> str:
    """Return the slowest rank of a step, if the others wait for it."""
    longest, median = record.get("step_ms_max"), record.get("step_ms_median")
    if not median or longest is None or longest <= _STRAGGLES_FROM * median:
        return ""
    return f"  rank {record.get('slowest_rank')} took {_short(longest / median)} times the median"


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=round(min(seconds, _LONGEST_S)))


def _short(value: float) -> str:
    return f"{value:.2g}" if value < _ONE_DECIMAL_FROM else f"{value:.1f}"


def _eval_result(record: Record, text_format: TextFormat) -> str:
    head = text_format.style(f"evaluation at step {record['step']}", BOLD)
    return f"{head}  {_losses(record)}  {count_of(record['num_samples'], 'sample')}"


def _shape(sizes: Sequence[int]) -> str:
    return f"torch.Size([{', '.join(map(str, sizes))}])"


def _prediction_sample(record: Record, text_format: TextFormat) -> str:
    split = "" if record["split"] == "train" else f" ({record['split']})"
    if record["modality"] == "audio":
        title = f"Audio Prediction vs Label Comparison (Codebook {record['codebook']}){split}:"
        shapes = [f"  {name} shape: {_shape(record[f'{name.lower()}_shape'])}" for name in ("Logits", "Labels")]
    else:
        title = f"Sample {record['sample_index'] + 1} Prediction vs Label Comparison{split}:"
        shapes = []
    correct = f"{record['num_correct']} of {record['num_targets']} correct"
    about = f"{record['sample_id']} at step {record['step']}, {correct}"
    heading = f"{text_format.style(title, BOLD)}  {text_format.style(about, DIM)}"
    windows = {"First": record["first"], "Last": record["last"]}
    tokens = render_token_columns(windows, color=text_format.color, width=text_format.width)
    return "\n".join([heading, *tokens, *shapes])


def _token_counts(record: Record, text_format: TextFormat) -> str:
    codebook = "" if record.get("codebook") is None else f" codebook {record['codebook']}"
    series = f"{record.get('modality') or ''}{codebook}".strip()
    head = text_format.style(f"token counts of step {record['step']}, {series}", BOLD)
    facts = [
        f"{head}: {record['num_correct']:,} of {record['num_targets']:,} correct",
        f"labels in the sequence at -2 to +2: {plain(record['label_matches'])}",
    ]
    if record["unigram_accuracy"] is not None:
        facts.append(f"the most frequent label alone {_percent(record['unigram_accuracy'])}")
    if record["stop_targets"]:
        stop = f"stop token {record['stop_correct']:,} of {record['stop_targets']:,} correct"
        facts.append(f"{stop}, rank {_number(record['stop_rank'], '.1f')}")
    return "; ".join(facts)


def _checkpoint(record: Record, _text_format: TextFormat) -> str:
    return f"saved {record['path']}"


def _diagnosis(record: Record, text_format: TextFormat) -> str:
    severity, repeats = record["severity"], record.get("repeats")
    head = text_format.style(f"{severity} ({record['code']})", SEVERITIES.get(severity, BOLD))
    found = f" {record['found']}" if "found" in record else ""  # place in a log, from `diagnose`
    before = f"  ({count_of(repeats, 'more time', 'more times')} before)" if repeats else ""
    return "\n".join([f"{head}{found}: {record['message']}{before}", *_mask_map(record.get("evidence"), text_format)])


def _mask_map(evidence: Any, text_format: TextFormat) -> list[str]:
    """Return the mask map of the sample in the evidence of a `mask_audit`."""
    rows = evidence.get("strip") if isinstance(evidence, dict) else None
    drawn = render_mask_map(rows, color=text_format.color, width=text_format.width)
    return [f"  Sample {evidence['sample']}:", *drawn] if drawn and "sample" in evidence else drawn


def _prepare_progress(record: Record, text_format: TextFormat) -> str:
    facts = [
        f"{record['clips_done']:,} of {count_of(record['clips_total'], 'clip')}",
        f"{_number(record['audio_hours_done'], '.2f')} h of audio",
        *([] if record["times_real_time"] is None else [f"{_short(record['times_real_time'])} times real time"]),
        *([] if record.get("seconds_left") is None else [f"{_duration(record['seconds_left'])} left"]),
        count_of(record["faults"], "fault"),
        count_of(record["workers"], "worker"),
    ]
    return f"{text_format.style(record['stage'], BOLD)}: {', '.join(facts)}"


def _dataset_audit(record: Record, text_format: TextFormat) -> str:
    return render_audit(record, color=text_format.color)


def _generation_sample(record: Record, text_format: TextFormat) -> str:
    return render_generation(record, color=text_format.color, width=text_format.width)


def _sink_recovered(record: Record, _text_format: TextFormat) -> str:
    lost = count_of(record["lost"], "event")
    return f"sink {record['sink']} works again; {lost} lost, seq {record['first_seq']} to {record['last_seq']}"


def _cap_reached(record: Record, _text_format: TextFormat) -> str:
    limit = f"max_total_bytes, {record['max_total_bytes']:,} bytes"
    return f"sink {record['sink']} stops: its files reached {limit}; later events are not written"


def _run_end(record: Record, text_format: TextFormat) -> str:
    facts = [text_format.style(f"run ended: {record['reason']} at step {record['step']}", BOLD)]
    if record.get("lost_ranks"):
        facts.append(f"lost: rank {', '.join(map(str, record['lost_ranks']))}")
    if "events_written" in record:
        facts.append(f"{count_of(record['events_written'], 'event')} written, {record['events_lost']:,} lost")
    if record.get("values_replaced"):
        facts.append(f"{count_of(record['values_replaced'], 'value')} replaced")
    if record.get("diagnoses"):
        times = (f"{code} {count_of(count, 'time')}" for code, count in record["diagnoses"].items())
        facts.append(f"diagnoses: {', '.join(times)}")
    if "logging_ms_total" in record:
        facts.append(f"logging took {_number(record['logging_ms_total'], '.0f')} ms")
    return "; ".join(facts)


#: Renderer of each event.
RENDERERS: Mapping[str, Callable[[Record, TextFormat], str]] = {
    "run_start": _run_start,
    "train_step": _train_step,
    "prediction_sample": _prediction_sample,
    "token_counts": _token_counts,
    "eval_result": _eval_result,
    "generation_sample": _generation_sample,
    "checkpoint": _checkpoint,
    "diagnosis": _diagnosis,
    "prepare_progress": _prepare_progress,
    "dataset_audit": _dataset_audit,
    "sink_recovered": _sink_recovered,
    "cap_reached": _cap_reached,
    "run_end": _run_end,
}
