"""Rules between the values of one line, beyond the schema: consistent counts and lists of equal length.

Every line of this package's producer fulfils each rule. A comment names the producer's module. A rule is skipped if the
line marks a field of the rule as changed before writing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from math import inf, isclose

from higgs_audio_trainer.events import EVENTS
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import MORE, Record, marks, number_fields
from higgs_audio_trainer.logs.validation.count_rules import COUNT_RULES
from higgs_audio_trainer.logs.validation.generation_rules import GENERATION_RULES
from higgs_audio_trainer.logs.validation.sample_rules import LEAST_LOSS, SAMPLE_RULES, Rule, at_least_0

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,19})")
#: Values of `reason` in `run_end`.
_REASONS = ("completed", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "interrupted", "diagnosis", "error")
_TOLERANCE = 1e-4  # relative; losses may be summed in float32


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


def _time(record: Record, _start: Record) -> Iterator[InvalidField]:
    try:
        datetime.fromisoformat(record["ts"])
    except ValueError:
        yield InvalidField("$.ts", "an existing date and time", repr(record["ts"]))


def _run_id(record: Record, _start: Record) -> Iterator[InvalidField]:
    if not record["run_id"]:
        yield InvalidField("$.run_id", "the name of a run", "an empty string")


def _rank(record: Record, start: Record) -> Iterator[InvalidField]:
    size = int_field(start, "world_size")
    if size is not None and record["rank"] >= size:
        yield InvalidField("$.rank", f"less than world_size, {size}", str(record["rank"]))


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


# train_step and eval_result (`extraction/loss_sums`)


def _codebooks(record: Record, start: Record) -> Iterator[InvalidField]:
    losses, accuracies = record["audio_loss_per_codebook"], record["audio_accuracy_per_codebook"]
    expected = int_field(start, "num_codebooks")
    if expected is not None and len(losses) != expected:
        yield InvalidField(
            "$.audio_loss_per_codebook", f"{expected} items, num_codebooks of run_start", str(len(losses))
        )
    elif len(accuracies) != len(losses):
        yield InvalidField(
            "$.audio_accuracy_per_codebook",
            f"{len(losses)} items, as many as audio_loss_per_codebook",
            str(len(accuracies)),
        )


def _audio_loss(record: Record, _start: Record) -> Iterator[InvalidField]:
    losses = record["audio_loss_per_codebook"]
    yield from _not_close(
        record, "audio_loss", sum(losses) / len(losses) if losses else 0.0, "the mean of the codebooks"
    )


def _total_loss(record: Record, start: Record) -> Iterator[InvalidField]:
    config = start.get("config")
    weight = config.get("text_loss_weight") if isinstance(config, dict) else None
    if isinstance(weight, (int, float)) and not isinstance(weight, bool):
        total = weight * record["text_loss"] + record["audio_loss"]
        yield from _not_close(record, "loss", total, "text_loss x text_loss_weight + audio_loss")


def _rank_times(record: Record, _start: Record) -> Iterator[InvalidField]:
    longest, median = record["step_ms_max"], record["step_ms_median"]
    if (longest is None) != (median is None):
        yield InvalidField("$.step_ms_median", "null exactly if step_ms_max is null", repr(median))
    elif longest is not None and median > longest:
        yield InvalidField("$.step_ms_median", f"at most step_ms_max, {longest}", repr(median))


def _ranks(record: Record, start: Record) -> Iterator[InvalidField]:
    rank, ranks = record["slowest_rank"], int_field(start, "world_size")
    if rank is not None and ranks is not None and rank >= ranks:
        yield InvalidField("$.slowest_rank", f"less than world_size of run_start, {ranks}", str(rank))


def _not_close(record: Record, name: str, expected: float, formula: str) -> Iterator[InvalidField]:
    if not isclose(record[name], expected, rel_tol=_TOLERANCE, abs_tol=1e-9):
        yield InvalidField(f"$.{name}", f"{formula}, {expected:.6g}", repr(record[name]))


def _losses(record: Record, _start: Record) -> Iterator[InvalidField]:
    names = "text_loss", "audio_loss_per_codebook"
    yield from _outside(record, *names, LEAST_LOSS, inf, "a cross-entropy, at least 0")


def _accuracies(record: Record, _start: Record) -> Iterator[InvalidField]:
    yield from _outside(record, "text_accuracy", "audio_accuracy_per_codebook", 0, 1, "a share from 0 to 1")


def _outside(
    record: Record, name: str, of_codebooks: str, least: float, most: float, expected: str
) -> Iterator[InvalidField]:
    for index, value in enumerate((record[name], *record[of_codebooks]), start=-1):
        if value is not None and not least <= value <= most:
            yield InvalidField(f"$.{name}" if index < 0 else f"$.{of_codebooks}[{index}]", expected, repr(value))


def _text_targets(record: Record, _start: Record) -> Iterator[InvalidField]:
    targets = record["text_targets"]
    yield from _null_without("text_accuracy", record["text_accuracy"], targets, "text_targets")
    if not targets and record["text_loss"]:
        yield InvalidField("$.text_loss", "0 because text_targets is 0", repr(record["text_loss"]))


def _audio_targets(record: Record, _start: Record) -> Iterator[InvalidField]:
    accuracies = record["audio_accuracy_per_codebook"]
    supervised, targets = len(accuracies) - accuracies.count(None), record["audio_targets"]
    if targets < supervised or (targets and not supervised):
        expected = f"at least one for each of {supervised} codebooks with an accuracy" if supervised else "0"
        yield InvalidField("$.audio_targets", expected, str(targets))
    for index, (loss, accuracy) in enumerate(zip(record["audio_loss_per_codebook"], accuracies, strict=False)):
        if accuracy is None and loss:
            yield InvalidField(f"$.audio_loss_per_codebook[{index}]", "0 because the accuracy is null", repr(loss))


def _null_without(name: str, value: float | None, targets: int, count: str) -> Iterator[InvalidField]:
    if value is None and targets:
        yield InvalidField(f"$.{name}", f"a number because {count} is {targets}", "null")
    elif value is not None and not targets:
        yield InvalidField(f"$.{name}", f"null because {count} is 0", repr(value))


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
_FIGURES: _Rules = (
    (("audio_loss_per_codebook", "audio_accuracy_per_codebook"), _codebooks),
    (("audio_loss", "audio_loss_per_codebook"), _audio_loss),
    (("loss", "text_loss", "audio_loss"), _total_loss),
    (("text_loss", "audio_loss_per_codebook"), _losses),
    (("text_accuracy", "audio_accuracy_per_codebook"), _accuracies),
    (("text_accuracy", "text_targets", "text_loss"), _text_targets),
    (("audio_accuracy_per_codebook", "audio_targets", "audio_loss_per_codebook"), _audio_targets),
    (("epoch",), at_least_0("epoch")),
)
_RULES: dict[str, _Rules] = {
    "run_start": ((("resumed_from_step",), at_least_0("resumed_from_step")), (("versions",), _versions)),
    "train_step": (
        *_FIGURES,
        (("learning_rate",), at_least_0("learning_rate")),
        (("grad_norm",), at_least_0("grad_norm")),
        (("step_ms_max", "step_ms_median"), _rank_times),
        (("slowest_rank",), _ranks),
    ),
    "prediction_sample": SAMPLE_RULES,
    "token_counts": COUNT_RULES,
    "eval_result": _FIGURES,
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
    name: tuple((frozenset(needed), rule) for needed, rule in (*_ENVELOPE_RULES, *_RULES.get(name, ())))
    for name in EVENTS
}
_ALL_RULES_OF = {name: tuple(rule for _, rule in rules) for name, rules in _RULES_OF.items()}
_FIELDS_OF = {name: frozenset().union(*(needed for needed, _ in rules)) for name, rules in _RULES_OF.items()}
