"""Logs read back: files, segments, ranks and attempts as one stream of events, whatever happened to the files.

`read` yields events in the order of (step, rank, attempt, seq). An event without a step keeps its place in its file;
`run_start` comes first. A bad line costs itself alone, and memory does not grow with the log: of each rank and attempt
one event is held.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from higgs_audio_trainer.errors import Fault
from higgs_audio_trainer.logs.attempts import Attempt, shows
from higgs_audio_trainer.logs.files import Stream, find
from higgs_audio_trainer.logs.lines import Line, LogFile, OnFault, tail, whole
from higgs_audio_trainer.logs.typed import Logged, Record

_REMEMBERED = 64  # lines among which a repeated one is recognised
_BEFORE_ALL = -1  # the place of `run_start`
_Item = tuple[tuple[int, int, int], Line]  # place, rank and attempt; the place is the step that it is sorted by


def read(*paths: str | Path, all_attempts: bool = False, on_fault: OnFault | None = None) -> Iterator[Logged]:
    """Read logs as typed events: instances of the classes in `events` that have the fields of the envelope too.

    By default each step is shown as the highest attempt made it, `run_start` and `run_end` are those of the highest
    attempt, and of an evaluation that was made again at a resume the later one is shown. So a run that was interrupted
    and resumed reads as one that was not.

    Args:
        paths: a run's output directory, or the folder of its files; or files, of which those that lie in one folder
            are read as one log, and one that is not named as the sink names them in its own order; `-` is standard
            input. Files may be compressed by gzip or zstd. Several logs are read one after the other.
        all_attempts: show the events of every attempt.
        on_fault: is told of each line that cannot be used; without it such lines are passed over.

    Raises:
        UserError: there is no log at a path; or, while it is read, a file cannot be read.
    """
    return (line.event for line in read_lines(*paths, all_attempts=all_attempts, on_fault=on_fault))


def read_lines(*paths: str | Path, all_attempts: bool = False, on_fault: OnFault | None = None) -> Iterator[Line]:
    """Read logs as `read` does, line by line: with the JSON object, the bytes and the place of each event."""
    logs = find(map(Path, paths))
    return chain.from_iterable(_lines_of(log, all_attempts, on_fault or _ignore) for log in logs)


def _lines_of(log: Sequence[Stream], all_attempts: bool, on_fault: OnFault) -> Iterator[Line]:
    attempts = {stream.attempt: Attempt(stream.attempt) for stream in log}
    if len(attempts) > 1 and not all_attempts:
        for stream in log:
            for record in _last_records(stream.files):
                attempts[stream.attempt].reach(record)
    streams = [_Stream(stream, attempts[stream.attempt], on_fault).items() for stream in log]
    merged = heapq.merge(*streams, key=_key)  # has the first line of every stream before it yields one
    return (line for key, line in merged if all_attempts or _is_shown(key, line.record, attempts))


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
    """The lines of one rank and attempt.

    Args:
        stream: its files.
        attempt: is told what the records say of it.
        on_fault: is told of lines that cannot be used.
    """

    def __init__(self, stream: Stream, attempt: Attempt, on_fault: OnFault) -> None:
        self._stream = stream
        self._attempt = attempt
        self._on_fault = on_fault

    def items(self) -> Iterator[_Item]:
        """Yield each line with its place, which never goes back: within a file, its order holds."""
        place = _BEFORE_ALL
        for line in self._lines():
            self._attempt.learn(line.record)
            step = whole(line.record, "step")
            if line.record["event"] != "run_start":
                place = max(place, self._attempt.start if step is None else step)
            yield (place, self._stream.rank, self._stream.attempt), line

    def _lines(self) -> Iterator[Line]:
        """Yield the lines of all segments, passing over one that was there before.

        A segment begins with the `run_start` of the first one, and with the line whose fate there is not known.
        """
        start: int | None = None
        recent: deque[int] = deque(maxlen=_REMEMBERED)
        for path in self._stream.files:
            for line in LogFile(path, self._on_fault).lines():
                digest = hash(line.raw.rstrip())
                if digest == start or digest in recent:
                    continue
                recent.append(digest)
                if start is None and line.record["event"] == "run_start":
                    start = digest
                yield line


def _ignore(_fault: Fault) -> None:
    pass
