"""One function for each event that returns the text of a record, for each level of detail."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from sinks.protocol import Record
from sinks.rendering.dataset_audit import SEVERITIES, render_audit
from sinks.rendering.generation import render_generation, render_generation_line
from sinks.rendering.mask_map import render_mask_map
from sinks.rendering.prediction_sample import render_brief_sample, render_prediction_sample
from sinks.rendering.step import render_evaluation, render_evaluation_line, render_step_line, render_train_step
from sinks.rendering.text_format import TextFormat, plain, short
from sinks.terminal.style import BOLD
from sinks.terminal.words import count_of, duration

#: Makes the text of a record, or None for a record that is not shown.
Renderer = Callable[[Record, TextFormat], str | None]
_MS_OF_A_SECOND = 1000
_GAP = "  "  # where lines are folded first


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
    return f"{head}: {_GAP.join(facts)}"


def _token_counts(record: Record, text_format: TextFormat) -> str:
    codebook = "" if record.get("codebook") is None else f" codebook {record['codebook']}"
    series = f"{record.get('modality') or ''}{codebook}".strip()
    head = text_format.style(f"token counts of step {record['step']}, {series}", BOLD)
    facts = [
        f"{head}: {record['num_correct']:,} of {record['num_targets']:,} correct",
        f"labels in the sequence at -2 to +2: {plain(record['label_matches'])}",
    ]
    if record["unigram_accuracy"] is not None:
        facts.append(f"the most frequent label alone {record['unigram_accuracy']:.1%}")
    if record["stop_targets"]:
        stop = f"stop token {record['stop_correct']:,} of {record['stop_targets']:,} correct"
        facts.append(f"{stop}" + ("" if record["stop_rank"] is None else f", rank {record['stop_rank']:.1f}"))
    return _GAP.join(facts)


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
        *([] if record["audio_hours_done"] is None else [f"{record['audio_hours_done']:.2f} h of audio"]),
        *([] if record["times_real_time"] is None else [f"{short(record['times_real_time'])} times real time"]),
        *([] if record.get("seconds_left") is None else [f"{duration(record['seconds_left'])} left"]),
        count_of(record["faults"], "fault"),
        count_of(record["workers"], "worker"),
    ]
    return f"{text_format.style(record['stage'], BOLD)}: {_GAP.join(facts)}"


def _dataset_audit(record: Record, text_format: TextFormat) -> str:
    return render_audit(record, color=text_format.color)


def _sink_recovered(record: Record, _text_format: TextFormat) -> str:
    lost = count_of(record["lost"], "event")
    return f"sink {record['sink']} works again; {lost} lost, seq {record['first_seq']} to {record['last_seq']}"


def _cap_reached(record: Record, _text_format: TextFormat) -> str:
    limit = f"max_total_bytes, {record['max_total_bytes']:,} bytes"
    return f"sink {record['sink']} stops: its files reached {limit}; later events are not written"


def _logging_time(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < _MS_OF_A_SECOND else f"{short(milliseconds / _MS_OF_A_SECOND)} s"


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
    if record.get("logging_ms_total") is not None:
        facts.append(f"logging took {_logging_time(record['logging_ms_total'])}")
    return _GAP.join(facts)


def _hidden(_record: Record, _text_format: TextFormat) -> None:
    """Return no text."""


def _first_line(renderer: Renderer) -> Renderer:
    """Return a renderer that keeps the first line of the text."""

    def render_first_line(record: Record, text_format: TextFormat) -> str | None:
        text = renderer(record, text_format)
        return text and text.partition("\n")[0]

    return render_first_line


#: Renderer of each event, with all details.
RENDERERS: dict[str, Renderer] = {
    "run_start": _run_start,
    "train_step": render_train_step,
    "prediction_sample": render_prediction_sample,
    "token_counts": _token_counts,
    "eval_result": render_evaluation,
    "generation_sample": render_generation,
    "checkpoint": _checkpoint,
    "diagnosis": _diagnosis,
    "prepare_progress": _prepare_progress,
    "dataset_audit": _dataset_audit,
    "sink_recovered": _sink_recovered,
    "cap_reached": _cap_reached,
    "run_end": _run_end,
}

_COMPACT: dict[str, Renderer] = {
    "prediction_sample": render_brief_sample,
    "generation_sample": render_generation_line,
}
_LINE: dict[str, Renderer] = {
    "train_step": render_step_line,
    "prediction_sample": _hidden,
    "eval_result": render_evaluation_line,
    "generation_sample": render_generation_line,
    "diagnosis": _first_line(_diagnosis),
    "dataset_audit": _first_line(_dataset_audit),
}
#: Renderer of each event by the level of detail of the console.
DETAILS: Mapping[str, Mapping[str, Renderer]] = {
    "full": RENDERERS,
    "compact": ChainMap(_COMPACT, RENDERERS),
    "line": ChainMap(_LINE, RENDERERS),
}
