"""Checks between the lines of one step, and of the order of steps of one rank and attempt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from higgs_audio_trainer.logs.lines import LogLine, int_field, where
from higgs_audio_trainer.logs.typed import MARKS, Record, is_marked
from higgs_audio_trainer.logs.validation.step_members import StepMembers
from higgs_audio_trainer.logs.validation.step_totals import StepTotals
from higgs_audio_trainer.logs.validation.violation import Violation

_ONCE_A_STEP = frozenset({"train_step", "eval_result", "prediction_sample", "token_counts", "generation_sample"})
_KEY = ("event", "split", "modality", "sample_index", "codebook", "probe")
_NAMES = ("sample_id", "fingerprint")


_Place = tuple[Path, int, int]  # path, number and offset of a line; formatted only for a violation


class StepCheck:
    """State of the current step.

    Attributes:
        reached: Highest step of an event; None before the first step.
    """

    def __init__(self) -> None:
        self.reached: int | None = None
        self._members = StepMembers()
        self._totals = StepTotals()
        self._step: int | None = None
        self._is_at_start = True  # no event with a step yet
        self._keys: dict[tuple[Any, ...], _Place] = {}
        self._samples: dict[tuple[Any, ...], tuple[Any, _Place]] = {}  # names of each sample with their place
        self._spoken: int | None = None  # step of the last generated speech
        self._spoken_keys: dict[tuple[Any, ...], _Place] = {}

    def begin_at(self, step: int | None) -> None:
        """Set the step of the resumed checkpoint."""
        self._step = self._spoken = step

    def take(self, line: LogLine, start: Record) -> Iterator[Violation]:
        """Check a line, valid by the schema. `start` is the `run_start`, empty if missing."""
        record, event = line.record, line.record["event"]
        step = int_field(record, "step")
        self._members.follow(line)
        if step is None or is_marked(record, "$.step"):
            return
        if self.reached is None or step > self.reached:
            self.reached = step
        if event == "generation_sample":
            yield from self._take_speech(line, step)
            return
        if event == "diagnosis" and self._step is not None and step < self._step:  # of late speech
            return
        # A resumed run that fails before its first step ends at step 0.
        is_failed_start = self._is_at_start and event == "run_end" and step == 0
        self._is_at_start = False
        if self._step is not None and step < self._step and not is_failed_start:
            yield Violation(line.where, "$.step", f"at least {self._step}, the previous step", str(step), "step")
        if step != self._step:
            self._begin(step)
        if event != "token_counts":
            yield from self._members.take(line, start)
        yield from self._totals.take(line)
        yield from _repeats(line, step, self._keys)
        if event == "prediction_sample":
            yield from self._renames(line)

    def _begin(self, step: int) -> None:
        self._step = step
        self._keys.clear()
        self._samples.clear()
        self._members.begin()
        self._totals.begin()

    def _take_speech(self, line: LogLine, step: int) -> Iterator[Violation]:
        """Check generated speech, which may follow later steps because the decoding of the audio takes time."""
        if self._spoken is not None and step < self._spoken:
            expected = f"at least {self._spoken}, the step of the speech before"
            yield Violation(line.where, "$.step", expected, str(step), "step")
        if self._step is None or step > self._step:
            self._begin(step)
        if step != self._spoken:
            self._spoken = step
            self._spoken_keys.clear()
        yield from _repeats(line, step, self._spoken_keys)

    def _renames(self, line: LogLine) -> Iterator[Violation]:
        record, has_marks = line.record, not MARKS.isdisjoint(line.record)
        split, index, at = record["split"], record["sample_index"], (line.path, line.number, line.offset)
        for name in _NAMES:
            if has_marks and is_marked(record, f"$.{name}"):
                continue
            before, place = self._samples.setdefault((split, index, name), (record[name], at))
            if before != record[name]:
                yield Violation(
                    line.where,
                    f"$.{name}",
                    f"{before!r}, as sample {index} has at {where(*place)}",
                    repr(record[name]),
                    "value",
                )


def _repeats(line: LogLine, step: int, keys: dict[tuple[Any, ...], _Place]) -> Iterator[Violation]:
    """Report a second event of one kind and subject in a step."""
    if line.record["event"] not in _ONCE_A_STEP:
        return
    key = tuple(map(line.record.get, _KEY))
    if key in keys:
        got = f"a repetition of {where(*keys[key])}"
        yield Violation(line.where, "$", f"one {_described(line.record)} of step {step}", got, "duplicate")
    else:
        keys[key] = line.path, line.number, line.offset


def _described(record: Record) -> str:
    if record["event"] == "generation_sample":
        return f"generation_sample of probe {record['probe']!r}"
    if record["event"] not in ("prediction_sample", "token_counts"):
        return str(record["event"])
    which = record["modality"] if record["codebook"] is None else f"{record['modality']} codebook {record['codebook']}"
    if record["event"] == "token_counts":
        return f"token_counts of {which}"
    return f"{record['split']} prediction_sample of sample {record['sample_index']}, {which},"
