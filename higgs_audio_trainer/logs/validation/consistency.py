"""Rules between the values of one line, beyond the schema: consistent counts and lists of equal length.

Every line of this package's producer fulfils each rule. A comment names the producer's module. A rule is skipped if the
line marks a field of the rule as changed before writing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from higgs_audio_trainer.events import EVENTS
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import MORE, Record, marks, number_fields
from higgs_audio_trainer.logs.validation.count_rules import COUNT_RULES
from higgs_audio_trainer.logs.validation.figure_rules import FIGURE_RULES
from higgs_audio_trainer.logs.validation.generation_rules import GENERATION_RULES
from higgs_audio_trainer.logs.validation.sample_rules import SAMPLE_RULES, Rule, at_least_0
from higgs_audio_trainer.logs.validation.training_rules import TRAINING_RULES

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,19})")
#: Values of `reason` in `run_end`.
_REASONS = ("completed", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "interrupted", "diagnosis", "error")


def inconsistencies(record: Record, start: Record) -> list[InvalidField]:
    """List the inconsistent fields of a line.

    Args:
        record: Line, valid by the schema. A line of a golden file may lack the volatile fields.
        start: `run_start` of the file, empty if missing.

    Example:
        >>> record = {"event": "checkpoint", "v": 1, "rank": 0, "level": "info", "step": 10, "path": "checkpoint-20"}
        >>> inconsistencies(record, {})
        [InvalidField(field='$.path', expected='checkpoint-10, the number of the step', got="'checkpoint-20'")]
    """
    spoiled = {mark.partition(".")[0].partition("[")[0] for mark in marks(record)}
    if MORE in spoiled:
        return []
    found = [null for null in _nulls(record) if null.field.partition("[")[0].removeprefix("$.") not in spoiled]
    if found:
        return found
    return contradictions(record, start, spoiled)


def contradictions(record: Record, start: Record, spoiled: Collection[str] = ()) -> list[InvalidField]:
    """List the fields of a line with contradictions to other fields or to the `run_start`.

    Args:
        record: Line, valid by the schema, without a null for a number outside the spoiled fields.
        start: `run_start` of the file, empty if missing.
        spoiled: Fields changed before writing.
    """
    return [wrong for rule in _rules_for(record, spoiled) for wrong in rule(record, start)]


def _rules_for(record: Record, spoiled: Collection[str]) -> Sequence[Rule]:
    """Return the rules whose fields are all present and unchanged."""
    name = record["event"]
    if not spoiled and _FIELDS_OF[name] <= record.keys():  # true of nearly every line
        return _ALL_RULES_OF[name]
    return [rule for needed, rule in _RULES_OF[name] if needed.isdisjoint(spoiled) and needed <= record.keys()]


def _nulls(record: Record) -> Iterator[InvalidField]:
    """Yield each null in a number field without a mark (`pipeline/json_values`)."""
    scalars, lists = number_fields(record["event"])
    expected = "a number, or a null listed in `nonfinite` or `replaced`"
    for name in scalars:
        if name in record and record[name] is None:
            yield InvalidField(f"$.{name}", expected, "null")
    for name in lists:
        yield from (
            InvalidField(f"$.{name}[{index}]", expected, "null")
            for index, value in enumerate(record.get(name) or ())
            if value is None
        )


# Envelope (`pipeline/emit`)


# These three rules are functions, not generators, since every line meets them.


def _time(record: Record, _start: Record) -> Iterable[InvalidField]:
    try:
        datetime.fromisoformat(record["ts"])
    except ValueError:
        return [InvalidField("$.ts", "an existing date and time", repr(record["ts"]))]
    return ()


def _run_id(record: Record, _start: Record) -> Iterable[InvalidField]:
    return () if record["run_id"] else [InvalidField("$.run_id", "the name of a run", "an empty string")]


def _rank(record: Record, start: Record) -> Iterable[InvalidField]:
    size = int_field(start, "world_size")
    if size is None or record["rank"] < size:
        return ()
    return [InvalidField("$.rank", f"less than world_size, {size}", str(record["rank"]))]


# run_start (`recording/run_log`)


def _versions(record: Record, _start: Record) -> Iterator[InvalidField]:
    if not record["versions"]:
        yield InvalidField("$.versions", "at least the version of Python", "none")


# checkpoint (`recording/recorder`)


def _folder(record: Record, _start: Record) -> Iterator[InvalidField]:
    numbered = _CHECKPOINT.fullmatch(record["path"])
    if numbered and int(numbered[1]) != record["step"]:
        yield InvalidField("$.path", f"checkpoint-{record['step']}, the number of the step", repr(record["path"]))


# diagnosis (`diagnoses`)


def _of_codebook(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["codebook"] is not None and record["modality"] != "audio":
        expected = f"audio because the codebook is {record['codebook']}"
        yield InvalidField("$.modality", expected, "null" if record["modality"] is None else repr(record["modality"]))


# prepare_progress and dataset_audit (`data/audit`)


def _clips(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["clips_done"] > record["clips_total"]:
        yield InvalidField("$.clips_done", f"at most clips_total, {record['clips_total']}", str(record["clips_done"]))


def _samples_of_findings(record: Record, _start: Record) -> Iterator[InvalidField]:
    for index, finding in enumerate(record["findings"]):
        total = sum(finding["by_split"].values())
        if finding["count"] != total:
            yield InvalidField(f"$.findings[{index}].count", f"{total}, the sum of by_split", str(finding["count"]))
        elif len(finding["samples"]) > total:
            yield InvalidField(
                f"$.findings[{index}].samples", f"at most {total}, the count", str(len(finding["samples"]))
            )


# Events about sinks (`pipeline/delivery`, `sinks/jsonl`)


def _outage(record: Record, _start: Record) -> Iterator[InvalidField]:
    first, last, lost = record["first_seq"], record["last_seq"], record["lost"]
    if last < first:
        yield InvalidField("$.last_seq", f"at least first_seq, {first}", str(last))
    elif not min(2, size := last - first + 1) <= lost <= size:
        expected = f"{min(2, size)} to {size} because the range is seq {first} to {last}"
        yield InvalidField("$.lost", expected, str(lost))


def _outage_before(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["last_seq"] >= record["seq"]:
        yield InvalidField("$.last_seq", f"less than the line's own seq, {record['seq']}", str(record["last_seq"]))


def _cap(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["total_bytes"] > record["max_total_bytes"]:
        yield InvalidField(
            "$.total_bytes", f"at most max_total_bytes, {record['max_total_bytes']}", str(record["total_bytes"])
        )


def _written(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["events_written"] > record["seq"]:
        yield InvalidField(
            "$.events_written", f"at most the line's own seq, {record['seq']}", str(record["events_written"])
        )


def _reason(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["reason"] not in _REASONS:
        yield InvalidField("$.reason", f"one of {', '.join(_REASONS)}", repr(record["reason"]))


_Rules = tuple[tuple[tuple[str, ...], Rule], ...]  # each rule with its fields

_ENVELOPE_RULES: _Rules = ((("ts",), _time), (("run_id",), _run_id), (("rank",), _rank))
_RULES: dict[str, _Rules] = {
    **FIGURE_RULES,
    "run_start": ((("resumed_from_step",), at_least_0("resumed_from_step")), (("versions",), _versions)),
    "prediction_sample": SAMPLE_RULES,
    "token_counts": COUNT_RULES,
    "generation_sample": GENERATION_RULES,
    "sink_recovered": ((("first_seq", "last_seq", "lost"), _outage), (("last_seq", "seq"), _outage_before)),
    "cap_reached": ((("max_total_bytes", "total_bytes"), _cap),),
    "checkpoint": ((("path", "step"), _folder),),
    "diagnosis": ((("modality", "codebook"), _of_codebook), (("codebook",), at_least_0("codebook"))),
    "prepare_progress": ((("clips_done", "clips_total"), _clips),),
    "dataset_audit": ((("findings",), _samples_of_findings),),
    "run_end": ((("events_written", "seq"), _written), (("reason",), _reason)),
}
_RULES_OF = {
    name: tuple(
        (frozenset(needed), rule)
        for needed, rule in (*_ENVELOPE_RULES, *_RULES.get(name, ()), *TRAINING_RULES.get(name, ()))
    )
    for name in EVENTS
}
_ALL_RULES_OF = {name: tuple(rule for _, rule in rules) for name, rules in _RULES_OF.items()}
_FIELDS_OF = {name: frozenset().union(*(needed for needed, _ in rules)) for name, rules in _RULES_OF.items()}
