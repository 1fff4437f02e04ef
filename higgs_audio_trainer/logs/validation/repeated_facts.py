"""Checks of what stays equal in a log: the evaluated samples, the prompts of the probes, and the sums over all ranks.

Every rank logs the same sums of a step, and every evaluation has the same samples. A contradiction is an error in our
training, and a note in a training that is not ours, whose ranks and evaluations may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

from higgs_audio_trainer.logs.lines import LogLine, int_field, where
from higgs_audio_trainer.logs.typed import Record, is_any_marked
from higgs_audio_trainer.logs.validation.training_rules import is_ours
from higgs_audio_trainer.logs.validation.violation import Severity, Violation

#: Facts to remember, of about 500 bytes. Later facts are compared with these alone, so that memory is bounded.
_MOST_FACTS = 20_000
_TOLERANCE = 1e-6  # relative; a collective operation gives every rank the same sums

_LOSSES = ("loss", "text_loss", "audio_loss")
_OF_RUNS = ("family", "num_codebooks", "vocab_size", "codebook_size")
_OF_ATTEMPTS = ("world_size", "seed", "resumed_from_step", "num_train_samples", "num_eval_samples", "total_steps")
_OF_EVALUATIONS = ("num_samples", "text_targets", "audio_targets")
_OF_PROBES = ("fingerprint", "text", "frames_label", "seed", "decoding")
_OF_RANKS = {
    "train_step": ("epoch", "loss", "text_loss", "audio_loss", "text_targets", "audio_targets", "learning_rate"),
    "eval_result": ("epoch", "loss", "text_loss", "audio_loss", "text_targets", "audio_targets", "num_samples"),
    "token_counts": ("num_targets", "num_correct", "masked", "supervised", "stop_targets", "stop_correct"),
}
_EVENTS = {*_OF_RANKS, "run_start", "generation_sample"}


class _Fact(NamedTuple):
    """Values of an earlier line."""

    values: tuple[Any, ...]
    place: tuple[Path, int, int]


class RepeatedFacts:
    """Remembers facts of a log, and compares each line with the line that had the fact first."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], _Fact] = {}

    def take(self, line: LogLine, start: Record) -> Iterable[Violation]:
        """Check a line, valid by the schema.

        Args:
            line: Line of any event.
            start: `run_start` of the line's rank and attempt, empty if missing.
        """
        event = line.record["event"]
        if event in _OF_RANKS and event != "eval_result" and (int_field(start, "world_size") or 1) == 1:
            return ()  # nearly every line of one rank
        return self._of_event(line, start, event) if event in _EVENTS else ()

    def _of_event(self, line: LogLine, start: Record, event: str) -> Iterator[Violation]:
        record = line.record
        attempt = record.get("run_id"), int_field(record, "attempt")
        if event == "run_start":
            yield from self._compared(line, record, (record.get("run_id"), event), _OF_RUNS, "of the same run")
            yield from self._compared(line, record, (*attempt, event), _OF_ATTEMPTS, "of another rank")
        elif event == "eval_result":
            yield from self._compared(line, start, (*attempt, event), _OF_EVALUATIONS, "of the same samples")
        elif event == "generation_sample":
            yield from self._compared(line, start, (*attempt, event, record["probe"]), _OF_PROBES, "of the same probe")
        if event in _OF_RANKS and (int_field(start, "world_size") or 1) > 1:
            key = (*attempt, event, record["step"], record.get("codebook"), True)
            yield from self._compared(line, start, key, _OF_RANKS[event], "with the same sums of another rank")

    def _compared(
        self, line: LogLine, start: Record, key: tuple[Any, ...], names: tuple[str, ...], what: str
    ) -> Iterator[Violation]:
        record = line.record
        if is_any_marked(record, (*names, *_LOSSES)):  # after a failure on any rank the sums over all ranks are 0
            return
        values = tuple(record.get(name) for name in names)
        known = self._known.get(key)
        if known is None:
            if len(self._known) < _MOST_FACTS:
                self._known[key] = _Fact(values, (line.path, line.number, line.offset))
            return
        for name, old, new in zip(names, known.values, values, strict=True):
            if not (_is_same(old, new) or (None in (old, new) and names is _OF_RUNS)):  # unknown to an older version
                expected = f"{_shown(old)}, as at {where(*known.place)}, {what}"
                severity: Severity = "error" if is_ours(start) else "note"
                yield Violation(line.where, f"$.{name}", expected, _shown(new), "value", severity)
                return


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=_TOLERANCE)
    return bool(one == other)


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
