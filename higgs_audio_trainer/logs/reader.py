"""Logs read back: files, segments, ranks and attempts as one stream of events, whatever happened to the files.

`read` yields events in the order of (step, rank, attempt, seq). An event without a step keeps its place in its file;
`run_start` comes first. A bad line costs itself alone, and memory does not grow with the log: of each rank and attempt
one event is held.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from higgs_audio_trainer.errors import InputProblem
from higgs_audio_trainer.logs.attempts import Attempt, shows
from higgs_audio_trainer.logs.files import Stream, find
from higgs_audio_trainer.logs.lines import Line, LogFile, OnFault, tail, whole
from higgs_audio_trainer.logs.typed import Logged, Record

_REMEMBERED = 64  # lines among which a repeated one is recognised
_BEFORE_ALL = -1  # the place of `run_start`
_Key = tuple[int, int, int]  # place, rank and attempt; the place is the step that a line is sorted by
_Item = tuple[_Key, Line]


def read(*paths: str | Path, all_attempts: bool = False, on_fault: OnFault | None = None) -> Iterator[Logged]:
    """Read logs as typed events: instances of the classes in `events` that have the fields of the envelope too.

    By default each step is shown as the highest attempt made it, `run_start` and `run_end` are those of the highest
    attempt, and of an evaluation that was made again at a resume the later one is shown. So a run that was interrupted
    and resumed reads as one that was not, but for the checkpoint that a stop saved.

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


def read_lines(
    *paths: str | Path, all_attempts: bool = False, on_fault: OnFault | None = None, misfits: bool = False
) -> Iterator[Line]:
    """Read logs as `read` does, line by line: with the JSON object, the bytes and the place of each event.

    With `misfits`, a line that is an object with the name of an event, but not as its type says, is yielded, too, after
    its fault was told. Its `event` is None.
    """
    logs = find(paths)
    return (line for log in logs for line in _lines_of(log, all_attempts, on_fault or _ignore, misfits))


def _lines_of(log: Sequence[Stream], all_attempts: bool, on_fault: OnFault, misfits: bool) -> Iterator[Line]:
    if not all_attempts:
        return (line for line, is_of_run in marked_lines(log, on_fault, misfits=misfits) if is_of_run)
    return (
        line for _, line in Merger().merged((stream, whole_lines(stream, on_fault, misfits=misfits)) for stream in log)
    )


def marked_lines(log: Sequence[Stream], on_fault: OnFault, *, misfits: bool = False) -> Iterator[tuple[Line, bool]]:
    """Yield the lines of all attempts of a log, and whether each is one of those that `read` shows."""
    merger = Merger()
    merger.look_ahead(log)
    for key, line in merger.merged((stream, whole_lines(stream, on_fault, misfits=misfits)) for stream in log):
        yield line, merger.shows(key, line.record)


def whole_lines(stream: Stream, on_fault: OnFault, *, misfits: bool = False) -> Iterator[Line]:
    """Yield the lines of all segments of a rank and attempt."""
    return (line for path in stream.files for line in LogFile(path, on_fault, misfits=misfits).lines())


class Merger:
    """Puts the lines of the ranks and attempts of one log in order, and knows which of them are the run's.

    May be given what is there, and later what came since.
    """

    def __init__(self) -> None:
        self._attempts: dict[int, Attempt] = {}
        self._streams: dict[tuple[int, int], _Stream] = {}

    def look_ahead(self, log: Sequence[Stream]) -> None:
        """See how far each attempt came, which decides on what is shown of those before it."""
        for stream in log:
            self._attempts.setdefault(stream.attempt, Attempt(stream.attempt))
        if len(self._attempts) > 1:
            for stream in log:
                for record in _last_records(stream.files):
                    self._attempts[stream.attempt].reach(record)

    def merged(self, log: Iterable[tuple[Stream, Iterable[Line]]]) -> Iterator[_Item]:
        """Yield lines in the order of `read`, each with its key.

        Args:
            log: the lines of each rank and attempt, in the order that they were written.
        """
        parts = [self._stream(stream).placed(lines) for stream, lines in log]
        return heapq.merge(*parts, key=_key)  # has the first line of every stream before it yields one

    def shows(self, key: _Key, record: Record) -> bool:
        """Tell whether a line that was just merged is one of the run's."""
        place, _, attempt = key
        return len(self._attempts) == 1 or shows(self._attempts[attempt], record, place, self._attempts.values())

    def forget(self, rank: int, attempt: int) -> None:
        """Forget the lines of a rank and attempt: its files were written anew."""
        self._streams.pop((rank, attempt), None)

    def _stream(self, stream: Stream) -> _Stream:
        attempt = self._attempts.setdefault(stream.attempt, Attempt(stream.attempt))
        return self._streams.setdefault((stream.rank, stream.attempt), _Stream(stream.rank, attempt))


def _key(item: _Item) -> _Key:
    return item[0]


def _last_records(files: Sequence[Path]) -> Iterator[Record]:
    """Yield the last records of a stream, the last one first, up to one that was made by a step."""
    for record in (record for path in reversed(files) for record in tail(path)):
        yield record
        if record["event"] != "run_end" and whole(record, "step") is not None:
            return


class _Stream:
    """What is known of the lines of one rank and attempt while they are read.

    Args:
        rank: the rank.
        attempt: is told what the records say of it.
    """

    def __init__(self, rank: int, attempt: Attempt) -> None:
        self._rank = rank
        self._attempt = attempt
        self._place = _BEFORE_ALL
        self._start: int | None = None
        self._recent: deque[int] = deque(maxlen=_REMEMBERED)

    def placed(self, lines: Iterable[Line]) -> Iterator[_Item]:
        """Yield each line with its place, which never goes back: within a file, its order holds."""
        for line in lines:
            if self._is_repeated(line):
                continue
            self._attempt.learn(line.record)
            step = whole(line.record, "step")
            if line.record["event"] != "run_start":
                self._place = max(self._place, self._attempt.start if step is None else step)
            yield (self._place, self._rank, self._attempt.number), line

    def _is_repeated(self, line: Line) -> bool:
        """Tell whether a line was there before.

        A segment begins with the `run_start` of the first one, and with the line whose fate there is not known.
        """
        digest = hash(line.raw.rstrip())
        if "seq" in line.record and (digest == self._start or digest in self._recent):  # a golden may say a thing twice
            return True
        self._recent.append(digest)
        if self._start is None and line.record["event"] == "run_start":
            self._start = digest
        return False


def _ignore(_fault: InputProblem) -> None:
    pass
