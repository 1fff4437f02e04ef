"""Rules between the values of a `token_counts`: equal sums, and parts no larger than their total.

Each rule takes a line and the `run_start`, and yields the inconsistent fields of the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import add, gt

from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.sample_rules import (
    LEAST_LOSS,
    Rule,
    at_least_0,
    of_modality,
    of_stop_token,
)

_NUM_OFFSETS = 5
_RUNS = re.compile(r"[1-9][0-9]*\S(?: [1-9][0-9]*\S)*")  # 57p 1# 72_ 2#
_SHARES = ("unigram_accuracy", "top_prediction_share")
_OF_LABELS = (*_SHARES, "unigram_loss", "top_prediction")
_PARTS = (
    ("num_correct", "num_targets"),
    ("stop_targets", "num_targets"),
    ("stop_correct", "stop_targets"),
    ("stop_correct", "num_correct"),
)
_COUNTS = ("label_matches", "offset_contested", "offset_matches", "offset_correct")
_LISTS = (*_COUNTS, "offset_surplus")


def _parts(record: Record, _start: Record) -> Iterator[InvalidField]:
    for name, whole in _PARTS:
        if record[name] > record[whole]:
            yield InvalidField(f"$.{name}", f"at most {whole}, {record[whole]}", str(record[name]))


def _places(record: Record, _start: Record) -> Iterator[InvalidField]:
    for name in ("masked", "supervised"):
        for place, count in record[name].items():
            if count < 0:
                yield InvalidField(f"$.{name}.{place}", "at least 0", str(count))
    total, targets = sum(record["supervised"].values()), record["num_targets"]
    if total != targets and (record["masked"] or record["supervised"]):  # else unknown
        yield InvalidField("$.num_targets", f"the sum of supervised, {total}", str(targets))


def _offsets(record: Record, _start: Record) -> Iterator[InvalidField]:
    for name in _LISTS:
        if len(record[name]) != _NUM_OFFSETS:
            yield InvalidField(f"$.{name}", f"{_NUM_OFFSETS} items, one for each offset", str(len(record[name])))
            return
    matched, slots_with_competitor, matches, correct = map(record.__getitem__, _COUNTS)
    targets, counts = record["num_targets"], matched + slots_with_competitor + matches + correct
    if min(counts) < 0 or max(counts) > targets:
        place, count = next(item for item in enumerate(counts) if not 0 <= item[1] <= targets)
        name, index = _COUNTS[place // _NUM_OFFSETS], place % _NUM_OFFSETS
        yield InvalidField(f"$.{name}[{index}]", f"0 to num_targets, {targets}", str(count))
    elif max(correct) > record["num_correct"] or any(map(gt, map(add, matches, correct), slots_with_competitor)):
        yield from _competing_tokens(record["num_correct"], slots_with_competitor, matches, correct)


def _competing_tokens(
    num_correct: int, slots_with_competitor: list[int], matches: list[int], correct: list[int]
) -> Iterator[InvalidField]:
    """Check that a prediction counts as the label, as the competing token or as neither."""
    for index, (slots, others, agreeing) in enumerate(zip(slots_with_competitor, matches, correct, strict=True)):
        if others + agreeing > slots:
            expected = f"at most {slots - agreeing}, offset_contested - offset_correct"
            yield InvalidField(f"$.offset_matches[{index}]", expected, str(others))
        if agreeing > num_correct:
            yield InvalidField(f"$.offset_correct[{index}]", f"at most num_correct, {num_correct}", str(agreeing))


def _frequencies(record: Record, _start: Record) -> Iterator[InvalidField]:
    for name in _OF_LABELS:
        value = record[name]
        if value is None:
            if record["num_targets"]:
                yield InvalidField(f"$.{name}", f"a number because num_targets is {record['num_targets']}", "null")
        elif name in _SHARES and not 0 <= value <= 1:
            yield InvalidField(f"$.{name}", "a share from 0 to 1", repr(value))
        elif value < (LEAST_LOSS if name == "unigram_loss" else 0):
            yield InvalidField(f"$.{name}", "at least 0", repr(value))


def _mask_map(record: Record, _start: Record) -> Iterator[InvalidField]:
    strip = record["strip"]
    if strip is None:
        return
    if record["step"] != 1:
        yield InvalidField("$.strip", "null because the step is not 1", repr(strip))
    elif not _RUNS.fullmatch(strip):
        yield InvalidField("$.strip", "runs of a count and a symbol, as in 57p 1# 72_ 2#", repr(strip))


#: Each rule with its fields.
COUNT_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("modality", "codebook", "num_codebooks"), of_modality),
    (("num_targets", "num_correct", "stop_targets", "stop_correct"), _parts),
    (("supervised", "masked", "num_targets"), _places),
    ((*_LISTS, "num_targets", "num_correct"), _offsets),
    (("stop_targets", "stop_rank", "stop_probability"), of_stop_token),
    ((*_OF_LABELS, "num_targets"), _frequencies),
    (("divisor",), at_least_0("divisor")),
    (("strip", "step"), _mask_map),
)
