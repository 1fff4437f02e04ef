"""Logs read back: files, segments, ranks and attempts as one stream of events, whatever happened to the files.

`read` yields events in the order of (step, rank, attempt, seq). An event without a step keeps its place in its file;
`run_start` comes first. A bad line costs itself alone, and memory does not grow with the log: of each rank and attempt
one event is held.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from higgs_audio_trainer.errors import Fault
from higgs_audio_trainer.logs.attempts import Attempt, shows
from higgs_audio_trainer.logs.lines import OnFault, Record, find, lines, tail, whole

_REMEMBERED = 64  # lines among which a repeated one is recognised
_BEFORE_ALL = -1  # the place of `run_start`
_Item = tuple[tuple[int, int, int], Record]  # place, rank and attempt; the place is the step that it is sorted by


def read(path: str | Path, *, all_attempts: bool = False, on_fault: OnFault | None = None) -> Iterator[Record]:
    """Read a log.

    By default each step is shown as the highest attempt made it, `run_start` and `run_end` are those of the highest
    attempt, and of an evaluation that was made again at a resume the later one is shown. So a run that was interrupted
    and resumed reads as one that was not.

    Args:
        path: a run's output directory, or the folder of its files; or one file, which is read in its own order.
        all_attempts: show the events of every attempt.
        on_fault: is told of each line that cannot be used; without it such lines are passed over.

    Raises:
        UserError: there is no log at this path; or, while it is read, a file cannot be read.
    """
    found = find(Path(path))
    attempts = {attempt: Attempt(attempt) for (_, attempt), _ in found}
    if len(attempts) > 1 and not all_attempts:
        for (_, attempt), files in found:
            for record in _last_records(files):
                attempts[attempt].reach(record)
    streams = [_Stream(rank, attempts[attempt], files, on_fault or _ignore).items() for (rank, attempt), files in found]
    merged = heapq.merge(*streams, key=_key)  # has the first record of every stream before it yields one
    return (record for key, record in merged if all_attempts or _is_shown(key, record, attempts))


def _key(item: _Item) -> tuple[int, int, int]:
    return item[0]


def _is_shown(key: tuple[int, int, int], record: Record, attempts: Mapping[int, Attempt]) -> bool:
    place, _, attempt = key
    return shows(attempts[attempt], record, place, attempts.values())


def _last_records(files: Sequence[Path]) -> Iterator[Record]:
    """Yield the last records of a stream, the last one first, up to one that was made by a step."""
    for record in (record for path in reversed(files) for record in tail(path)):
        yield record
        if record["event"] != "run_end" and whole(record, "step") is not None:
            return


class _Stream:
    """The records of one rank and attempt.

    Args:
        rank: the rank.
        attempt: is told what the records say of it.
        files: its segments, in order.
        on_fault: is told of lines that cannot be used.
    """

    def __init__(self, rank: int, attempt: Attempt, files: Sequence[Path], on_fault: OnFault) -> None:
        self._rank = rank
        self._attempt = attempt
        self._files = files
        self._on_fault = on_fault

    def items(self) -> Iterator[_Item]:
        """Yield each record with its place, which never goes back: within a file, its order holds."""
        place = _BEFORE_ALL
        for record in self._records():
            self._attempt.learn(record)
            step = whole(record, "step")
            if record["event"] != "run_start":
                place = max(place, self._attempt.start if step is None else step)
            yield (place, self._rank, self._attempt.number), record

    def _records(self) -> Iterator[Record]:
        """Yield the records of all segments, passing over a line that was there before.

        A segment begins with the `run_start` of the first one, and with the line whose fate there is not known.
        """
        start: int | None = None
        recent: deque[int] = deque(maxlen=_REMEMBERED)
        for path in self._files:
            for line, record in lines(path, self._on_fault):
                digest = hash(line.rstrip())
                if digest == start or digest in recent:
                    continue
                recent.append(digest)
                if start is None and record["event"] == "run_start":
                    start = digest
                yield record


def _ignore(_fault: Fault) -> None:
    pass
