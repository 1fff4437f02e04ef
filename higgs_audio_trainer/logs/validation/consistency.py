"""Rules among the values of one line, which no schema can state: counts that add up, lists that belong together.

Each rule holds for every line that this package's producer can write; where it is from stands beside it. A rule is not
asked where the line marks one of its fields as not the value that was emitted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from math import inf, isclose

from higgs_audio_trainer.events import EVENTS
from higgs_audio_trainer.logs.lines import whole
from higgs_audio_trainer.logs.typed import MORE, Misfit, Record, marks, numbers
from higgs_audio_trainer.logs.validation.count_rules import COUNT_RULES
from higgs_audio_trainer.logs.validation.sample_rules import LEAST_LOSS, SAMPLE_RULES, Rule, at_least_0

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,19})")
#: Why a run ends.
_REASONS = ("completed", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "interrupted", "diagnosis", "error")
_TOLERANCE = 1e-4  # relative: losses may be summed in float32


def inconsistencies(record: Record, start: Record) -> list[Misfit]:
    """List what in a line cannot be.

    Args:
        record: a line that fits its schema; one of a golden may lack what two runs may differ in.
        start: the `run_start` of its file; empty if there is none.
    """
    spoiled = {mark.partition(".")[0].partition("[")[0] for mark in marks(record)}
    if MORE in spoiled:
        return []
    found = [null for null in _nulls(record) if null.field.partition("[")[0].removeprefix("$.") not in spoiled]
    if found:
        return found
    return contradictions(record, start, spoiled)


def contradictions(record: Record, start: Record, spoiled: Collection[str] = ()) -> list[Misfit]:
    """List what in a line cannot be, for what stands elsewhere in it or in its `run_start`.

    Args:
        record: a line that fits its schema, and in which no null stands for a number but in the spoiled fields.
        start: as in `inconsistencies`.
        spoiled: fields whose value is not the one that was emitted.
    """
    return [wrong for rule in _rules_for(record, spoiled) for wrong in rule(record, start)]


def _rules_for(record: Record, spoiled: Collection[str]) -> Sequence[Rule]:
    """Choose the rules whose fields are all there and none of them spoiled."""
    name = record["event"]
    if not spoiled and _FIELDS_OF[name] <= record.keys():  # as nearly every line
        return _ALL_RULES_OF[name]
    return [rule for needed, rule in _RULES_OF[name] if needed.isdisjoint(spoiled) and needed <= record.keys()]


def _nulls(record: Record) -> Iterator[Misfit]:
    """A number is null only where `nonfinite` or `replaced` says what it was (`encodable_text`)."""
    scalars, lists = numbers(record["event"])
    expected = "a number, or a null that `nonfinite` or `replaced` names"
    for name in scalars:
        if name in record and record[name] is None:
            yield Misfit(f"$.{name}", expected, "null")
    for name in lists:
        yield from (
            Misfit(f"$.{name}[{index}]", expected, "null")
            for index, value in enumerate(record.get(name, ()))
            if value is None
        )


# Envelope (`emit`)


def _time(record: Record, _start: Record) -> Iterator[Misfit]:
    try:
        datetime.fromisoformat(record["ts"])
    except ValueError:
        yield Misfit("$.ts", "a time that there is", repr(record["ts"]))


def _run_id(record: Record, _start: Record) -> Iterator[Misfit]:
    if not record["run_id"]:
        yield Misfit("$.run_id", "the name of a run", "an empty text")


def _rank(record: Record, start: Record) -> Iterator[Misfit]:
    size = whole(start, "world_size")
    if size is not None and record["rank"] >= size:
        yield Misfit("$.rank", f"less than world_size, {size}", str(record["rank"]))


# run_start (`run_log`)


def _versions(record: Record, _start: Record) -> Iterator[Misfit]:
    if not record["versions"]:
        yield Misfit("$.versions", "at least that of Python", "none")


# checkpoint (`recorder`)


def _folder(record: Record, _start: Record) -> Iterator[Misfit]:
    numbered = _CHECKPOINT.fullmatch(record["path"])
    if numbered and int(numbered[1]) != record["step"]:
        yield Misfit("$.path", f"checkpoint-{record['step']}, as step has it", repr(record["path"]))


# diagnosis (`diagnoses`)


def _of_codebook(record: Record, _start: Record) -> Iterator[Misfit]:
    if record["codebook"] is not None and record["modality"] != "audio":
        expected = f"audio, for the codebook is {record['codebook']}"
        yield Misfit("$.modality", expected, "null" if record["modality"] is None else repr(record["modality"]))


# train_step and eval_result (`Figures.payload`)


def _codebooks(record: Record, start: Record) -> Iterator[Misfit]:
    losses, shares = record["audio_loss_per_codebook"], record["audio_accuracy_per_codebook"]
    expected = whole(start, "num_codebooks")
    if expected is not None and len(losses) != expected:
        yield Misfit("$.audio_loss_per_codebook", f"{expected} items, as run_start has codebooks", str(len(losses)))
    elif len(shares) != len(losses):
        yield Misfit(
            "$.audio_accuracy_per_codebook", f"{len(losses)} items, as audio_loss_per_codebook has", str(len(shares))
        )


def _audio_loss(record: Record, _start: Record) -> Iterator[Misfit]:
    losses = record["audio_loss_per_codebook"]
    yield from _not_close(
        record, "audio_loss", sum(losses) / len(losses) if losses else 0.0, "the mean of its codebooks"
    )


def _total_loss(record: Record, start: Record) -> Iterator[Misfit]:
    config = start.get("config")
    weight = config.get("text_loss_weight") if isinstance(config, dict) else None
    if isinstance(weight, (int, float)) and not isinstance(weight, bool):
        total = weight * record["text_loss"] + record["audio_loss"]
        yield from _not_close(record, "loss", total, "text_loss x text_loss_weight + audio_loss")


def _not_close(record: Record, name: str, expected: float, formula: str) -> Iterator[Misfit]:
    if not isclose(record[name], expected, rel_tol=_TOLERANCE, abs_tol=1e-9):
        yield Misfit(f"$.{name}", f"{formula}, {expected:.6g}", repr(record[name]))


def _losses(record: Record, _start: Record) -> Iterator[Misfit]:
    names = "text_loss", "audio_loss_per_codebook"
    yield from _outside(record, *names, LEAST_LOSS, inf, "a cross-entropy, at least 0")


def _shares(record: Record, _start: Record) -> Iterator[Misfit]:
    yield from _outside(record, "text_accuracy", "audio_accuracy_per_codebook", 0, 1, "a share, from 0 to 1")


def _outside(
    record: Record, name: str, of_codebooks: str, least: float, most: float, expected: str
) -> Iterator[Misfit]:
    for index, value in enumerate((record[name], *record[of_codebooks]), start=-1):
        if value is not None and not least <= value <= most:
            yield Misfit(f"$.{name}" if index < 0 else f"$.{of_codebooks}[{index}]", expected, repr(value))


def _text_targets(record: Record, _start: Record) -> Iterator[Misfit]:
    targets = record["text_targets"]
    yield from _null_without("text_accuracy", record["text_accuracy"], targets, "text_targets")
    if not targets and record["text_loss"]:
        yield Misfit("$.text_loss", "0, for text_targets is 0", repr(record["text_loss"]))


def _audio_targets(record: Record, _start: Record) -> Iterator[Misfit]:
    shares = record["audio_accuracy_per_codebook"]
    supervised, targets = len(shares) - shares.count(None), record["audio_targets"]
    if targets < supervised or (targets and not supervised):
        expected = f"at least one for each of {supervised} codebooks with an accuracy" if supervised else "0"
        yield Misfit("$.audio_targets", expected, str(targets))
    for index, (loss, share) in enumerate(zip(record["audio_loss_per_codebook"], shares, strict=False)):
        if share is None and loss:
            yield Misfit(f"$.audio_loss_per_codebook[{index}]", "0, for its accuracy is null", repr(loss))


def _null_without(name: str, value: float | None, targets: int, count: str) -> Iterator[Misfit]:
    if value is None and targets:
        yield Misfit(f"$.{name}", f"a number, for {count} is {targets}", "null")
    elif value is not None and not targets:
        yield Misfit(f"$.{name}", f"null, for {count} is 0", repr(value))


# sinks (`outlet`, `sinks.jsonl`)


def _outage(record: Record, _start: Record) -> Iterator[Misfit]:
    first, last, lost = record["first_seq"], record["last_seq"], record["lost"]
    if last < first:
        yield Misfit("$.last_seq", f"at least first_seq, {first}", str(last))
    elif not min(2, last - first + 1) <= lost <= last - first + 1:
        yield Misfit("$.lost", f"as many as seq {first} to {last} can hold", str(lost))


def _outage_before(record: Record, _start: Record) -> Iterator[Misfit]:
    if record["last_seq"] >= record["seq"]:
        yield Misfit("$.last_seq", f"less than the line's own seq, {record['seq']}", str(record["last_seq"]))


def _cap(record: Record, _start: Record) -> Iterator[Misfit]:
    if record["total_bytes"] > record["max_total_bytes"]:
        yield Misfit(
            "$.total_bytes", f"at most max_total_bytes, {record['max_total_bytes']}", str(record["total_bytes"])
        )


def _written(record: Record, _start: Record) -> Iterator[Misfit]:
    if record["events_written"] > record["seq"]:
        yield Misfit("$.events_written", f"at most the line's own seq, {record['seq']}", str(record["events_written"]))


def _reason(record: Record, _start: Record) -> Iterator[Misfit]:
    if record["reason"] not in _REASONS:
        yield Misfit("$.reason", f"one of {', '.join(_REASONS)}", repr(record["reason"]))


_Rules = tuple[tuple[tuple[str, ...], Rule], ...]  # fields that a rule looks at, and the rule

_ENVELOPE_RULES: _Rules = ((("ts",), _time), (("run_id",), _run_id), (("rank",), _rank))
_FIGURES: _Rules = (
    (("audio_loss_per_codebook", "audio_accuracy_per_codebook"), _codebooks),
    (("audio_loss", "audio_loss_per_codebook"), _audio_loss),
    (("loss", "text_loss", "audio_loss"), _total_loss),
    (("text_loss", "audio_loss_per_codebook"), _losses),
    (("text_accuracy", "audio_accuracy_per_codebook"), _shares),
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
    ),
    "prediction_sample": SAMPLE_RULES,
    "token_counts": COUNT_RULES,
    "eval_result": _FIGURES,
    "sink_recovered": ((("first_seq", "last_seq", "lost"), _outage), (("last_seq", "seq"), _outage_before)),
    "cap_reached": ((("max_total_bytes", "total_bytes"), _cap),),
    "checkpoint": ((("path", "step"), _folder),),
    "diagnosis": ((("modality", "codebook"), _of_codebook), (("codebook",), at_least_0("codebook"))),
    "run_end": ((("events_written", "seq"), _written), (("reason",), _reason)),
}
_RULES_OF = {
    name: tuple((frozenset(needed), rule) for needed, rule in (*_ENVELOPE_RULES, *_RULES.get(name, ())))
    for name in EVENTS
}
_ALL_RULES_OF = {name: tuple(rule for _, rule in rules) for name, rules in _RULES_OF.items()}
_FIELDS_OF = {name: frozenset().union(*(needed for needed, _ in rules)) for name, rules in _RULES_OF.items()}
