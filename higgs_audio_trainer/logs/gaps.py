"""Events that are missing from a log: which numbers, and whether the log says why."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.logs.files import parse_name
from higgs_audio_trainer.logs.lines import LogLine, int_field
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.logs.typed import Record

_first = itemgetter(0)


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """Numbers that are missing from the log of one rank and attempt.

    Attributes:
        rank: the rank.
        attempt: the attempt.
        first_seq: the first missing `seq`.
        last_seq: the last one.
        explained_by: `sink_recovered` or `cap_reached`, the event that accounts for them; `keep`, the option of the
            sink by which it removed the segments that held them; None if nothing does.
    """

    rank: int
    attempt: int
    first_seq: int
    last_seq: int
    explained_by: str | None

    @property
    def count(self) -> int:
        """How many are missing."""
        return self.last_seq - self.first_seq + 1


def gaps(log: str | Path | Iterable[Record], *, sink: str = "jsonl") -> list[Gap]:
    """Find the gaps in `seq`, between 0 and the highest number there is, of each rank and attempt.

    What a `sink_recovered` says is believed as far as it adds up: where more is missing between its first and last
    number than it says was lost, none of it is explained.

    Args:
        log: a path, as for `read`, or records of all attempts in the order that `read_lines` gives them. Records do not
            say which segments are there: where the run had `keep`, the first ones may be gone.
        sink: name of the sink that wrote the log; what other sinks lost explains nothing here.

    Raises:
        UserError: as `read`.
    """
    if isinstance(log, (str, Path)):
        return gaps_in(read_lines(log, all_attempts=True), sink=sink)
    return _found(((record, None) for record in log), sink)


def gaps_in(lines: Iterable[LogLine], *, sink: str = "jsonl") -> list[Gap]:
    """Find the gaps as `gaps` does, in lines of all attempts in the order that `read_lines` gives them."""
    return _found(((line.record, line.path) for line in lines), sink)


def may_begin_late(first: Path | None) -> bool:
    """Tell whether the first segments may be gone, from the first file there is; None if that is not known.

    A file that is not named as the sink names them may hold any segments.
    """
    name = parse_name(first) if first is not None else None
    return name is None or name.segment > 0


def _found(items: Iterable[tuple[Record, Path | None]], sink: str) -> list[Gap]:
    """Find the gaps in records, each with its file."""
    ledgers: dict[tuple[int, int], Ledger] = {}
    for record, path in items:
        rank, attempt, seq = int_field(record, "rank"), int_field(record, "attempt"), int_field(record, "seq")
        if rank is not None and attempt is not None and seq is not None and seq >= 0:
            if (rank, attempt) not in ledgers:
                ledgers[rank, attempt] = Ledger(may_begin_late(path))
            ledgers[rank, attempt].enter(record, seq, sink)
    return [
        Gap(rank, attempt, first, last, _name(reason))
        for (rank, attempt), ledger in sorted(ledgers.items())
        for first, last, reason in ledger.gaps()
    ]


class Outage(NamedTuple):
    """What a `sink_recovered` says.

    Attributes:
        first_seq: the first lost event.
        last_seq: the last one.
        lost: how many of them.
        said_at: seq of the event that says it.
        errno: of the last error, if it was the operating system's.
    """

    first_seq: int
    last_seq: int
    lost: int
    said_at: int
    errno: int | None


@dataclass(slots=True)
class Ledger:
    """The numbers of one rank and attempt. Grows with the gaps, not with the log.

    Attributes:
        begins_late: the files that are there may lack the first segments: see `may_begin_late`.
        keeps: the run's sinks keep the last segments alone.
        expected: the next number, if none is missing.
        missing: first and last number of each range, in order.
        outages: what each `sink_recovered` says.
        capped_at: seq of `cap_reached`, if there is one.
    """

    begins_late: bool = True
    keeps: bool = False
    expected: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    capped_at: int | None = None

    def enter(self, record: Record, seq: int, sink: str) -> None:
        """Take in a record.

        Args:
            record: a line.
            seq: its number, at least 0.
            sink: what other sinks say of themselves counts for nothing.
        """
        if record["event"] == "run_start":
            config = record.get("config")
            self.keeps = self.keeps or (isinstance(config, dict) and "keep=" in str(config.get("sinks")))
        if seq >= self.expected:
            if seq > self.expected:
                self.missing.append((self.expected, seq - 1))
            self.expected = seq + 1
        else:
            self._found(seq)
        if record.get("sink") == sink:
            self._account(record, seq)

    def _found(self, seq: int) -> None:
        """Take a number out of the missing ones: it came late, after one that was too high."""
        index = bisect_right(self.missing, seq, key=_first) - 1
        if index < 0 or self.missing[index][1] < seq:
            return  # a repeated line
        first, last = self.missing[index]
        parts = [(first, seq - 1), (seq + 1, last)]
        self.missing[index : index + 1] = [part for part in parts if part[0] <= part[1]]

    def _account(self, record: Record, seq: int) -> None:
        if record["event"] == "cap_reached" and self.capped_at is None:
            self.capped_at = seq
        first, last, lost = (int_field(record, name) for name in ("first_seq", "last_seq", "lost"))
        if record["event"] == "sink_recovered" and first is not None and last is not None and lost is not None:
            self.outages.append(Outage(first, last, lost, seq, int_field(record, "errno")))

    def gaps(self) -> Iterator[tuple[int, int, Outage | str | None]]:
        """Yield first and last number of each gap and what explains it: an outage, `cap_reached`, `keep` or nothing.

        A missing range is cut where its explanation changes. What is gone with `keep` counts against no outage.
        """
        known_from = self._known_from()
        believed = _Believed(
            item
            for item in self.outages
            if self._missing_within(max(item.first_seq, known_from), item.last_seq) <= item.lost
        )
        cuts = {cut for item in believed.outages for cut in (item.first_seq, item.last_seq + 1)}
        cuts |= set() if self.capped_at is None else {self.capped_at + 1}
        ordered = sorted(cuts)
        for first, last in self.missing:
            inner = ordered[bisect_right(ordered, first) : bisect_right(ordered, last)]
            changes: list[tuple[int, Outage | str | None]] = []
            for seq in (first, *inner):
                reason = believed.at(seq) or self._cap(seq) or ("keep" if seq < known_from else None)
                if not changes or _name(changes[-1][1]) != _name(reason):
                    changes.append((seq, reason))
            for (start, reason), (stop, _) in pairwise([*changes, (last + 1, None)]):
                yield start, stop - 1, reason

    def _known_from(self) -> int:
        """Find the first number whose segment is not gone with `keep`: each segment begins with `run_start`, seq 0."""
        is_late = self.begins_late and self.keeps and bool(self.missing) and self.missing[0][0] == 1
        return self.missing[0][1] + 1 if is_late else 0

    def _missing_within(self, first: int, last: int) -> int:
        begin = max(bisect_left(self.missing, first, key=_first) - 1, 0)
        ranges = self.missing[begin : bisect_right(self.missing, last, key=_first)]
        overlaps = (min(last, end) - max(first, start) + 1 for start, end in ranges)
        return sum(size for size in overlaps if size > 0)

    def _cap(self, seq: int) -> str | None:
        return "cap_reached" if self.capped_at is not None and seq > self.capped_at else None


class _Believed:
    """Outages that add up, to be asked for the one that a number was lost in."""

    def __init__(self, outages: Iterable[Outage]) -> None:
        self.outages = sorted(outages)
        self._furthest: list[Outage] = []  # of the outages up to each, that which ends last
        for item in self.outages:
            before = self._furthest[-1] if self._furthest else item
            self._furthest.append(item if item.last_seq >= before.last_seq else before)

    def at(self, seq: int) -> Outage | None:
        index = bisect_right(self.outages, seq, key=_first) - 1
        return self._furthest[index] if index >= 0 and self._furthest[index].last_seq >= seq else None


def _name(reason: Outage | str | None) -> str | None:
    return "sink_recovered" if isinstance(reason, Outage) else reason
