"""The lines of one rank and attempt held against each other: their numbers, their steps, their beginning and end."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from enum import Enum, auto
from operator import itemgetter

from higgs_audio_trainer.logs.gaps import Ledger, Outage
from higgs_audio_trainer.logs.lines import LogLine, int_field
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.step_check import StepCheck
from higgs_audio_trainer.logs.validation.violation import Kind, Severity, Violation

_SINK = "jsonl"
_MOST_TORN = 100  # lines whose fate is looked into at the end; further ones are errors


class _Head(Enum):
    """Where in a further file a line stands: first comes `run_start` again, then perhaps the last line before it."""

    AHEAD = auto()
    BEGUN = auto()
    PASSED = auto()


class AttemptCheck:
    """What is known of one rank and attempt. Grows with the gaps and with what a step holds, not with the log.

    Args:
        is_golden: the lines have no field that two runs may differ in: no numbers, no beginning, no end.
        is_joined: one file holds what was several: of ranks, attempts or segments.
        begins_late: its first file may not be its first segment.

    Attributes:
        start: the `run_start`; empty before there is one.
    """

    def __init__(self, *, is_golden: bool = False, is_joined: bool = False, begins_late: bool = True) -> None:
        self.start: Record = {}
        self._is_golden = is_golden
        self._is_joined = is_joined
        self._ledger = Ledger(begins_late)
        self._steps = StepCheck()
        self._jumps: list[tuple[int, str]] = []  # first missing number, and the place where that showed
        self._torn: list[tuple[int, Violation]] = []  # the number that was to come, and what came
        self._faulty: dict[int, int] = {}  # the number that was to come, and how many lines without an event came
        self._start_raw = self._last_raw = b""
        self._again: LogLine | None = None  # `run_start` once more in a joined file, until the next line
        self._last: LogLine | None = None
        self._seq: int | None = None
        self._head = _Head.PASSED
        self._ended = self._is_capped = self._late_is_said = False
        self._without_start: str | None = None  # the place of the first line, if it is no `run_start`

    def begin_file(self) -> None:
        """Take note that the lines of another file follow."""
        self._head = _Head.PASSED if self._last is None else _Head.AHEAD

    def is_repeated(self, line: LogLine) -> bool:
        """Tell whether a line is one that a segment begins with and that was there before."""
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

    def faulty(self, finding: Violation) -> Iterator[Violation]:
        """Take a line that holds no event. One that is no JSON a failing sink may have left, and told of it later."""
        expected = self._ledger.expected
        if expected in self._faulty or len(self._faulty) < _MOST_TORN:
            self._faulty[expected] = self._faulty.get(expected, 0) + 1
        if finding.kind == "line" and len(self._torn) < _MOST_TORN:
            self._torn.append((expected, finding))
        else:
            yield finding

    def take(self, line: LogLine, *, is_sound: bool, after_fault: bool) -> Iterator[Violation]:
        """Take a line.

        Args:
            line: the line.
            is_sound: it fits the schema.
            after_fault: in its file, nothing but lines without an event come before it.
        """
        if not self._is_golden:
            yield from self._place_in_file(line, after_fault=after_fault)
            yield from self._number(line)
        if is_sound:
            yield from self._steps.take(line)
        if line.record["event"] == "run_start" and not self.start and is_sound:
            self.start, self._start_raw = line.record, line.raw.rstrip()
            self._steps.begin_at(int_field(line.record, "resumed_from_step"))
        self._last, self._last_raw, self._head = line, line.raw.rstrip(), _Head.PASSED

    def _place_in_file(self, line: LogLine, *, after_fault: bool) -> Iterator[Violation]:
        event, last = line.record["event"], self._last
        if self._again is not None:
            yield from self._begun_again(self._again, int_field(line.record, "seq"))
            self._again = None
        if self._head is _Head.AHEAD and self.start and not after_fault:
            yield _finding(line, "$.event", "run_start, with which each segment begins", event, "run_start")
        elif last is None and event != "run_start" and not after_fault:
            self._without_start = line.where
        elif last is not None and event == "run_start":
            yield _finding(line, "$.event", "run_start as the first line alone", "another one", "run_start")
        if self._ended and not self._late_is_said:
            self._late_is_said = True
            yield _finding(line, "$.event", "nothing after run_end", event, "run_end")
        elif self._is_capped and not self._ended and event != "run_end" and not self._late_is_said:
            self._late_is_said = True
            yield _finding(line, "$.event", "run_end alone after cap_reached", event, "run_end")
        self._ended = self._ended or event == "run_end"
        self._is_capped = self._is_capped or (event == "cap_reached" and line.record.get("sink") == _SINK)

    def _begun_again(self, start: LogLine, seq: int | None) -> Iterator[Violation]:
        """Say so where `run_start` stood once more, and no later segment follows, whose numbers go on."""
        if seq is None or self._seq is None or seq <= self._seq:
            got = "the last line" if seq is None else f"one before seq {seq:,}"
            yield _finding(start, "$.event", "run_start before lines that go on", got, "run_start")

    def _number(self, line: LogLine) -> Iterator[Violation]:
        seq = int_field(line.record, "seq")
        if seq is None or seq < 0:
            return  # the schema's finding
        if self._seq is not None and seq <= self._seq:
            got = f"{seq}, a repeated line" if line.raw.rstrip() == self._last_raw else str(seq)
            yield _finding(line, "$.seq", f"more than {self._seq}, the seq before", got, "seq")
        if seq > self._ledger.expected:
            self._jumps.append((self._ledger.expected, line.where))
        self._seq = seq
        self._ledger.enter(line.record, seq, _SINK)

    def end(self, *, is_last: bool, may_be_part: bool = False) -> Iterator[Violation]:
        """Say what can be said once all lines were taken.

        Args:
            is_last: there is no higher attempt.
            may_be_part: without a `run_start`, it is what `merge` leaves of an attempt that a later one made anew.
        """
        if self._is_golden or self._last is None or (may_be_part and not self.start):
            for _, finding in self._torn:
                yield finding
            return
        if self._again is not None:
            yield from self._begun_again(self._again, None)
        explained: list[tuple[int, int]] = []
        for first, last, reason in self._ledger.gaps():
            if reason is not None:
                explained.append((first, last))
            elif last - first < self._faulty.get(first, 0):
                continue  # the lines are there, and are findings themselves
            yield self._gap(first, last, reason)
        yield from self._torn_lines(explained)
        yield from self._ends(explained, is_last=is_last)

    def _gap(self, first: int, last: int, reason: Outage | str | None) -> Violation:
        place = self._jumps[bisect_right(self._jumps, first, key=itemgetter(0)) - 1][1]
        numbers = f"seq {first:,}" if first == last else f"seq {first:,} to {last:,}"
        if reason == "keep":
            got = "none: earlier segments are gone, as keep has it"
        elif isinstance(reason, Outage):
            cause = f" ({_cause(reason.errno)})" if reason.errno is not None else ""
            got = f"none: lost by sink {_SINK}{cause}, said by sink_recovered at seq {reason.reported_at:,}"
        elif reason:
            got = f"none: the log is full, said by cap_reached at seq {self._ledger.capped_at:,}"
        else:
            got = "none, and nothing that explains it"
        return Violation(place, "$.seq", numbers, got, "gap", _note_if(reason is not None))

    def _torn_lines(self, explained: list[tuple[int, int]]) -> Iterator[Violation]:
        for expected, finding in self._torn:
            index = bisect_right(explained, expected, key=itemgetter(0)) - 1
            if index >= 0 and explained[index][1] >= expected:
                got = f"{finding.got}: what a failed write left of an event that is said to be lost"
                yield Violation(finding.where, finding.path, finding.expected, got, finding.kind, "note")
            else:
                yield finding

    def _ends(self, explained: list[tuple[int, int]], *, is_last: bool) -> Iterator[Violation]:
        if self._without_start is not None:
            is_lost = bool(explained) and explained[0][0] == 0
            got = "another event: it was lost, as is said" if is_lost else "another event"
            yield Violation(
                self._without_start, "$.event", "run_start as the first line", got, "run_start", _note_if(is_lost)
            )
        if not self._ended and self._last is not None:
            ending = (
                "the process was killed, or is still running" if is_last else "the process was killed, then resumed"
            )
            yield Violation(
                self._last.where,
                "$.event",
                "run_end as the last line",
                f"{self._last.record['event']}: {ending}",
                "run_end",
                _note_if(not is_last),
            )


def _finding(line: LogLine, path: str, expected: str, got: str, kind: Kind) -> Violation:
    return Violation(line.where, path, expected, got, kind)


def _note_if(is_accounted_for: bool) -> Severity:
    return "note" if is_accounted_for else "error"


def _cause(number: int) -> str:
    return f"{errno.errorcode[number]}, {os.strerror(number)}" if number in errno.errorcode else f"errno {number}"
