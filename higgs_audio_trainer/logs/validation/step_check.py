"""The lines of one step held against each other, and the order of the steps of one rank and attempt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from higgs_audio_trainer.logs.lines import Line, whole
from higgs_audio_trainer.logs.typed import Record, marked
from higgs_audio_trainer.logs.validation.finding import Finding

_ONCE_A_STEP = frozenset({"train_step", "eval_result", "prediction_sample"})
_KEY = ("event", "split", "modality", "sample_index", "codebook")
_NAMES = ("sample_id", "fingerprint")


class StepCheck:
    """What is known of the present step."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._keys: dict[tuple[Any, ...], str] = {}  # place of each
        self._samples: dict[tuple[Any, ...], tuple[Any, str]] = {}  # names of each, and where they were read

    def begin_at(self, step: int | None) -> None:
        """Take note of the step of the checkpoint that was resumed."""
        self._step = step

    def take(self, line: Line) -> Iterator[Finding]:
        """Take a line that fits its schema."""
        step = whole(line.record, "step")
        if step is None or marked(line.record, "$.step"):
            return
        if self._step is not None and step < self._step:
            yield Finding(line.where, "$.step", f"at least {self._step}, the step before", str(step), "step")
        if step != self._step:
            self._step = step
            self._keys.clear()
            self._samples.clear()
        yield from self._repeats(line)
        if line.record["event"] == "prediction_sample":
            yield from self._renames(line)

    def _repeats(self, line: Line) -> Iterator[Finding]:
        event = line.record["event"]
        if event not in _ONCE_A_STEP:
            return
        key = tuple(line.record.get(name) for name in _KEY)
        if key in self._keys:
            got = f"another one than at {self._keys[key]}"
            yield Finding(line.where, "$", f"one {_described(line.record)} of step {self._step}", got, "duplicate")
        else:
            self._keys[key] = line.where

    def _renames(self, line: Line) -> Iterator[Finding]:
        record = line.record
        sample = (record["split"], record["sample_index"])
        for name in _NAMES:
            if marked(record, f"$.{name}"):
                continue
            before, place = self._samples.setdefault((*sample, name), (record[name], line.where))
            if before != record[name]:
                yield Finding(
                    line.where,
                    f"$.{name}",
                    f"{before!r}, as sample {sample[1]} has at {place}",
                    repr(record[name]),
                    "value",
                )


def _described(record: Record) -> str:
    if record["event"] != "prediction_sample":
        return str(record["event"])
    which = record["modality"] if record["codebook"] is None else f"{record['modality']} codebook {record['codebook']}"
    return f"{record['split']} prediction_sample of sample {record['sample_index']}, {which},"
