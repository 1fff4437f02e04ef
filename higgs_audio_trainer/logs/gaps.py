"""Missing sequence numbers of a log, with the logged reason for each gap."""

from __future__ import annotations

import math
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
    """Consecutive missing sequence numbers of one rank and attempt.

    Attributes:
        rank: Rank.
        attempt: Attempt.
        first_seq: First missing `seq`.
        last_seq: Last missing `seq`.
        explained_by: Event with the reason (`sink_recovered` or `cap_reached`), or `keep`, the sink option for deleting
            old segments; None without an explanation.

    Example:
        >>> Gap(rank=0, attempt=0, first_seq=3, last_seq=7, explained_by=None).count
        5
    """

    rank: int
    attempt: int
    first_seq: int
    last_seq: int
    explained_by: str | None

    @property
    def count(self) -> int:
        """Number of missing events."""
        return self.last_seq - self.first_seq + 1


def gaps(log: str | Path | Iterable[Record], *, sink: str = "jsonl") -> list[Gap]:
    """Find the gaps in `seq` of each rank and attempt, from 0 to the highest number.

    A `sink_recovered` event explains the gaps in its range if the event's `lost` is at least the number of missing
    events. Otherwise the event explains no gap.

    Args:
        log: Path as for `read`, or records of all attempts in the order of `read_lines`. Records do not name their
            segments. If the run had the option `keep`, the first segments may be deleted.
        sink: Name of the log's sink. Losses of other sinks explain no gap.

    Raises:
        UserError: As for `read`.

    Example:
        >>> records = [{"event": "train_step", "rank": 0, "attempt": 0, "seq": seq} for seq in (0, 1, 4)]
        >>> gaps(records)
        [Gap(rank=0, attempt=0, first_seq=2, last_seq=3, explained_by=None)]
    """
    if isinstance(log, (str, Path)):
        return gaps_in(read_lines(log, all_attempts=True), sink=sink)
    return _all_gaps(((record, None) for record in log), sink)


def gaps_in(lines: Iterable[LogLine], *, sink: str = "jsonl") -> list[Gap]:
    """Find gaps like `gaps`, in lines of all attempts in the order of `read_lines`."""
    return _all_gaps(((line.record, line.path) for line in lines), sink)


def may_begin_late(first: Path | None) -> bool:
    """Return True if segments before the first existing file may be deleted.

    A file with another name than the JSONL sink's, or an unknown file (None), can hold any segments.

    Example:
        >>> may_begin_late(Path("rank00000-attempt000.jsonl")), may_begin_late(Path("merged.jsonl"))
        (False, True)
    """
    name = parse_name(first) if first is not None else None
    return name is None or name.segment > 0


def _all_gaps(items: Iterable[tuple[Record, Path | None]], sink: str) -> list[Gap]:
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
    """Loss reported by a `sink_recovered` event.

    Attributes:
        first_seq: First lost event.
        last_seq: Last lost event.
        lost: Number of lost events.
        reported_at: `seq` of the `sink_recovered` event.
        errno: Error number of the last failure, None without an operating system's error.
    """

    first_seq: int
    last_seq: int
    lost: int
    reported_at: int
    errno: int | None


@dataclass(slots=True)
class Ledger:
    """Sequence numbers of one rank and attempt. Memory grows with the number of gaps, not with the log.

    Attributes:
        begins_late: Whether the first segments may be deleted, see `may_begin_late`.
        keeps: Whether the run has a sink with the option `keep`, for deleting old segments.
        expected: Next number if no number is missing.
        missing: First and last number of each missing range, sorted.
        outages: Losses reported by `sink_recovered` events.
        capped_at: `seq` of `cap_reached`; None without such an event.
    """

    begins_late: bool = True
    keeps: bool = False
    expected: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    capped_at: int | None = None

    def enter(self, record: Record, seq: int, sink: str) -> None:
        """Record the sequence number of a line.

        Args:
            record: Event of the line.
            seq: Sequence number, at least 0.
            sink: Name of the log's sink. Events of other sinks explain no gap.
        """
        if record["event"] == "run_start":
            config = record.get("config")
            self.keeps = self.keeps or (isinstance(config, dict) and "keep=" in str(config.get("sinks")))
        if seq >= self.expected:
            if seq > self.expected:
                self.missing.append((self.expected, seq - 1))
            self.expected = seq + 1
        else:
            self._fill(seq)
        if record.get("sink") == sink:
            self._account(record, seq)

    def _fill(self, seq: int) -> None:
        """Remove a late number from the missing ranges."""
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
        """Yield the first and last number of each gap with its reason: an outage, `cap_reached`, `keep` or None.

        A missing range is split where the reason changes. Numbers in segments deleted by `keep` do not count against an
        outage.
        """
        known_from, capped_at = self._known_from(), math.inf if self.capped_at is None else self.capped_at
        consistent = _ConsistentOutages(
            item
            for item in self.outages
            if self._missing_within(max(item.first_seq, known_from), item.last_seq) <= item.lost
        )
        cuts = {cut for item in consistent.outages for cut in (item.first_seq, item.last_seq + 1)}
        cuts |= set() if self.capped_at is None else {self.capped_at + 1}
        ordered = sorted(cuts)
        for first, last in self.missing:
            inner = ordered[bisect_right(ordered, first) : bisect_right(ordered, last)]
            changes: list[tuple[int, Outage | str | None]] = []
            for seq in (first, *inner):
                reason = (
                    consistent.at(seq)
                    or ("cap_reached" if seq > capped_at else None)
                    or ("keep" if seq < known_from else None)
                )
                if not changes or _name(changes[-1][1]) != _name(reason):
                    changes.append((seq, reason))
            for (start, reason), (stop, _) in pairwise([*changes, (last + 1, None)]):
                yield start, stop - 1, reason

    def _known_from(self) -> int:
        """Return the first number whose segment exists. Each segment begins with a copy of `run_start`, seq 0."""
        is_late = self.begins_late and self.keeps and bool(self.missing) and self.missing[0][0] == 1
        return self.missing[0][1] + 1 if is_late else 0

    def _missing_within(self, first: int, last: int) -> int:
        begin = max(bisect_left(self.missing, first, key=_first) - 1, 0)
        ranges = self.missing[begin : bisect_right(self.missing, last, key=_first)]
        overlaps = (min(last, end) - max(first, start) + 1 for start, end in ranges)
        return sum(size for size in overlaps if size > 0)


class _ConsistentOutages:
    """Outages whose counts fit the gaps, searchable by sequence number."""

    def __init__(self, outages: Iterable[Outage]) -> None:
        self.outages = sorted(outages)
        self._furthest: list[Outage] = []  # running maximum of the outages by `last_seq`
        for item in self.outages:
            before = self._furthest[-1] if self._furthest else item
            self._furthest.append(item if item.last_seq >= before.last_seq else before)

    def at(self, seq: int) -> Outage | None:
        index = bisect_right(self.outages, seq, key=_first) - 1
        return self._furthest[index] if index >= 0 and self._furthest[index].last_seq >= seq else None


def _name(reason: Outage | str | None) -> str | None:
    return "sink_recovered" if isinstance(reason, Outage) else reason
