"""Events that are missing from a log: which numbers, and whether the log says why."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from higgs_audio_trainer.logs.lines import whole
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.logs.typed import Record


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """Numbers that are missing from the log of one rank and attempt.

    Attributes:
        rank: the rank.
        attempt: the attempt.
        first_seq: the first missing `seq`.
        last_seq: the last one.
        explained_by: `sink_recovered` or `cap_reached`, the event that accounts for them; None if nothing does.
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
        log: a path, as for `read`, or records of all attempts in the order that `read_lines` gives them.
        sink: name of the sink that wrote the log; what other sinks lost explains nothing here.

    Raises:
        UserError: as `read`.
    """
    if isinstance(log, (str, Path)):
        log = (line.record for line in read_lines(log, all_attempts=True))
    ledgers: dict[tuple[int, int], _Ledger] = {}
    for record in log:
        rank, attempt, seq = whole(record, "rank"), whole(record, "attempt"), whole(record, "seq")
        if rank is not None and attempt is not None and seq is not None and seq >= 0:
            ledgers.setdefault((rank, attempt), _Ledger()).enter(record, seq, sink)
    return [
        Gap(rank, attempt, *found) for (rank, attempt), ledger in sorted(ledgers.items()) for found in ledger.gaps()
    ]


@dataclass(slots=True)
class _Ledger:
    """The numbers of one rank and attempt. Grows with the gaps, not with the log."""

    expected: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)  # first and last of each range, in order
    outages: list[tuple[int, int, int]] = field(default_factory=list)  # first, last, lost
    capped_at: int | None = None

    def enter(self, record: Record, seq: int, sink: str) -> None:
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
        first, last, lost = (whole(record, name) for name in ("first_seq", "last_seq", "lost"))
        if record["event"] == "sink_recovered" and first is not None and last is not None and lost is not None:
            self.outages.append((first, last, lost))

    def gaps(self) -> Iterator[tuple[int, int, str | None]]:
        """Cut the missing ranges where their explanation changes."""
        believed = [(first, last) for first, last, lost in self.outages if self._missing_within(first, last) <= lost]
        cuts = {cut for first, last in believed for cut in (first, last + 1)}
        cuts |= set() if self.capped_at is None else {self.capped_at + 1}
        ordered = sorted(cuts)
        for first, last in self.missing:
            inner = ordered[bisect_right(ordered, first) : bisect_right(ordered, last)]
            changes: list[tuple[int, str | None]] = []
            for seq in (first, *inner):
                reason = self._reason(seq, believed)
                if not changes or changes[-1][1] != reason:
                    changes.append((seq, reason))
            for (start, reason), (stop, _) in pairwise([*changes, (last + 1, None)]):
                yield start, stop - 1, reason

    def _missing_within(self, first: int, last: int) -> int:
        begin = max(bisect_left(self.missing, first, key=_first) - 1, 0)
        ranges = self.missing[begin : bisect_right(self.missing, last, key=_first)]
        overlaps = (min(last, end) - max(first, start) + 1 for start, end in ranges)
        return sum(size for size in overlaps if size > 0)

    def _reason(self, seq: int, believed: list[tuple[int, int]]) -> str | None:
        if any(first <= seq <= last for first, last in believed):
            return "sink_recovered"
        return "cap_reached" if self.capped_at is not None and seq > self.capped_at else None


def _first(missing: tuple[int, int]) -> int:
    return missing[0]
