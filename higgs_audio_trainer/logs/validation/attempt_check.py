"""Checks between the lines of one rank and attempt: sequence numbers, steps, first and last line."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from enum import Enum, auto
from operator import itemgetter

from higgs_audio_trainer.events import PREPARATION_EVENTS
from higgs_audio_trainer.logs.gaps import Ledger, Outage
from higgs_audio_trainer.logs.lines import LogLine, int_field
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.step_check import StepCheck
from higgs_audio_trainer.logs.validation.violation import Severity, Violation

_SINK = "jsonl"
_MOST_TORN = 100  # torn lines kept until the end, when an outage may explain each line; more torn lines are errors


class _Head(Enum):
    """Position in a further segment: first a copy of `run_start`, then perhaps a copy of the line before."""

    AHEAD = auto()
    BEGUN = auto()
    PASSED = auto()


class AttemptCheck:
    """State of one rank and attempt. Memory grows with the gaps and the size of a step, not with the log.

    Args:
        is_golden: The lines lack the volatile fields, so the check skips sequence numbers, first line and last line.
        is_joined: A single file holds the lines of several ranks, attempts or segments.
        begins_late: The first file may not be the first segment.

    Attributes:
        start: `run_start`; empty before the line.
        start_place: Place of the line; None before the line.
        is_golden: Whether the lines lack the volatile fields.
    """

    def __init__(self, *, is_golden: bool = False, is_joined: bool = False, begins_late: bool = True) -> None:
        self.start: Record = {}
        self.start_place: str | None = None
        self.is_golden = is_golden
        self._is_joined = is_joined
        self._ledger = Ledger(begins_late)
        self._steps = StepCheck()
        self._jumps: list[tuple[int, str]] = []  # first missing number and place of the next line
        self._torn: list[tuple[int, Violation]] = []  # expected number and violation of the torn line
        self._faulty: dict[int, int] = {}  # expected number and count of lines without an event
        self._start_raw = b""
        self._again: LogLine | None = None  # repeated `run_start` of a joined file, until the next line
        self._last: LogLine | None = None
        self._seq: int | None = None
        self._head = _Head.PASSED
        self._ended = self._is_capped = self._late_is_reported = False
        self._is_preparation = True  # no event of a training so far
        self._without_start: str | None = None  # place of a first line other than `run_start`

    @property
    def last_place(self) -> str | None:
        """Place of the last line; None before the first line."""
        return None if self._last is None else self._last.where

    @property
    def _last_raw(self) -> bytes:
        return b"" if self._last is None else self._last.raw.rstrip()

    @property
    def reached(self) -> int | None:
        """Highest step of an event; None before the first step."""
        return self._steps.reached

    def begin_file(self) -> None:
        """Note the start of another file."""
        self._head = _Head.PASSED if self._last is None else _Head.AHEAD

    def is_repeated(self, line: LogLine) -> bool:
        """Return True if a line repeats a line of the segment before, as the first lines of a segment do."""
        if self._head is _Head.PASSED and not self._is_joined:  # nearly every line
            return False
        raw = line.raw.rstrip()
        if raw == self._start_raw and self._head is _Head.AHEAD:
            self._head = _Head.BEGUN
            return True
        if raw == self._start_raw and self._is_joined and self._again is None and raw != self._last_raw:
            self._head, self._again = _Head.BEGUN, line
            return True
        if raw == self._last_raw and self._head is (_Head.BEGUN if self.start else _Head.AHEAD):
            self._head = _Head.PASSED
            return True
        return False

    def faulty(self, violation: Violation) -> Iterator[Violation]:
        """Check a line without an event. A line without JSON waits for a later `sink_recovered` as explanation."""
        expected = self._ledger.expected
        if expected in self._faulty or len(self._faulty) < _MOST_TORN:
            self._faulty[expected] = self._faulty.get(expected, 0) + 1
        if violation.kind == "line" and len(self._torn) < _MOST_TORN:
            self._torn.append((expected, violation))
        else:
            yield violation

    def take(self, line: LogLine, *, is_sound: bool, after_fault: bool) -> Iterator[Violation]:
        """Check a line.

        Args:
            line: Line with an event.
            is_sound: Whether the line fits the schema.
            after_fault: Whether only lines without an event precede the line in the file.
        """
        if not self.is_golden:
            yield from self._place_in_file(line, after_fault=after_fault)
            yield from self._number(line)
        if is_sound:
            yield from self._steps.take(line, self.start)
        if line.record["event"] == "run_start" and not self.start and is_sound:
            self.start, self.start_place, self._start_raw = line.record, line.where, line.raw.rstrip()
            self._steps.begin_at(int_field(line.record, "resumed_from_step"))
        self._last, self._head = line, _Head.PASSED

    def _place_in_file(self, line: LogLine, *, after_fault: bool) -> Iterator[Violation]:
        event = line.record["event"]
        if self._again is not None:
            yield from self._begun_again(self._again, int_field(line.record, "seq"))
            self._again = None
        if self._head is _Head.AHEAD and self.start and not after_fault:
            yield Violation(line.where, "$.event", "run_start as the first line of each segment", event, "run_start")
        elif self._is_preparation and event not in (*PREPARATION_EVENTS, "run_start") and not after_fault:
            self._without_start = line.where
        elif not self._is_preparation and event == "run_start":
            yield Violation(
                line.where, "$.event", "run_start only as the first line", "a second run_start", "run_start"
            )
        if self._ended and not self._late_is_reported:
            self._late_is_reported = True
            yield Violation(line.where, "$.event", "no line after run_end", event, "run_end")
        elif self._is_capped and not self._ended and event != "run_end" and not self._late_is_reported:
            self._late_is_reported = True
            yield Violation(line.where, "$.event", "only run_end after cap_reached", event, "run_end")
        self._is_preparation = self._is_preparation and event in PREPARATION_EVENTS
        self._ended = self._ended or event == "run_end"
        self._is_capped = self._is_capped or (event == "cap_reached" and line.record.get("sink") == _SINK)

    def _begun_again(self, start: LogLine, seq: int | None) -> Iterator[Violation]:
        """Report a repeated `run_start` unless a later segment with higher numbers follows."""
        if seq is None or self._seq is None or seq <= self._seq:
            got = "run_start as the last line" if seq is None else f"run_start before seq {seq:,}"
            yield Violation(start.where, "$.event", "run_start only before lines with a higher seq", got, "run_start")

    def _number(self, line: LogLine) -> Iterator[Violation]:
        seq = int_field(line.record, "seq")
        if seq is None or seq < 0:
            return  # reported by the schema
        if self._seq is not None and seq <= self._seq:
            got = f"{seq}, a repeated line" if line.raw.rstrip() == self._last_raw else str(seq)
            yield Violation(line.where, "$.seq", f"more than {self._seq}, the previous seq", got, "seq")
        if seq > self._ledger.expected:
            self._jumps.append((self._ledger.expected, line.where))
        self._seq = seq
        self._ledger.enter(line.record, seq, _SINK)

    def end(self, *, is_last: bool, may_be_part: bool = False) -> Iterator[Violation]:
        """Report the problems found after the last line.

        Args:
            is_last: Whether no higher attempt exists.
            may_be_part: Whether lines without a `run_start` may be the rest of an attempt after `merge` removed the
                replaced steps.
        """
        if self.is_golden or self._last is None or (may_be_part and not self.start):
            for _, violation in self._torn:
                yield violation
            return
        if self._again is not None:
            yield from self._begun_again(self._again, None)
        explained: list[tuple[int, int]] = []
        for first, last, reason in self._ledger.gaps():
            if reason is not None:
                explained.append((first, last))
            elif last - first < self._faulty.get(first, 0):
                continue  # invalid lines fill the gap, and are violations themselves
            yield self._gap(first, last, reason)
        yield from self._torn_lines(explained)
        yield from self._ends(explained, is_last=is_last)

    def _gap(self, first: int, last: int, reason: Outage | str | None) -> Violation:
        place = self._jumps[bisect_right(self._jumps, first, key=itemgetter(0)) - 1][1]
        numbers = f"seq {first:,}" if first == last else f"seq {first:,} to {last:,}"
        if reason == "keep":
            got = "none: earlier segments were deleted because of keep"
        elif isinstance(reason, Outage):
            cause = f" ({_cause(reason.errno)})" if reason.errno is not None else ""
            got = f"none: lost by sink {_SINK}{cause}, reported by sink_recovered at seq {reason.reported_at:,}"
        elif reason:
            got = f"none: the log reached its size limit, reported by cap_reached at seq {self._ledger.capped_at:,}"
        else:
            got = "none, and no event explains the gap"
        return Violation(place, "$.seq", numbers, got, "gap", _note_if(reason is not None))

    def _torn_lines(self, explained: list[tuple[int, int]]) -> Iterator[Violation]:
        for expected, violation in self._torn:
            index = bisect_right(explained, expected, key=itemgetter(0)) - 1
            if index >= 0 and explained[index][1] >= expected:
                got = f"{violation.got}: the rest of a failed write of an event reported as lost"
                yield Violation(violation.where, violation.path, violation.expected, got, violation.kind, "note")
            else:
                yield violation

    def _ends(self, explained: list[tuple[int, int]], *, is_last: bool) -> Iterator[Violation]:
        if self._without_start is not None:
            is_lost = bool(explained) and explained[0][0] == 0
            got = "another event: run_start is reported as lost" if is_lost else "another event"
            yield Violation(
                self._without_start, "$.event", "run_start as the first line", got, "run_start", _note_if(is_lost)
            )
        if not self._ended and self._last is not None and not self._is_preparation:
            is_at_start = self._last.record["event"] == "run_start"
            if not is_last:
                ending = "the process was killed, then resumed"
            elif is_at_start:
                ending = "the run failed at its start, was killed, or is still running"
            else:
                ending = "the process was killed, or is still running"
            yield Violation(
                self._last.where,
                "$.event",
                "run_end as the last line",
                f"{self._last.record['event']}: {ending}",
                "run_end",
                _note_if(not is_last or is_at_start),
            )


def _note_if(is_accounted_for: bool) -> Severity:
    return "note" if is_accounted_for else "error"


def _cause(number: int) -> str:
    return f"{errno.errorcode[number]}, {os.strerror(number)}" if number in errno.errorcode else f"errno {number}"
