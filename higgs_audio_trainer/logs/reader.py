"""Reading of logs: files, segments, ranks and attempts as a single sequence of events.

`read` yields events in the order of (step, rank, attempt, seq). An event without a step, or an event that follows later
steps, keeps its place in its file, and `run_start` comes first. An invalid line does not affect other lines. Memory
does not grow with the log. One event of each rank and attempt is held.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from higgs_audio_trainer.events import LATE_EVENTS
from higgs_audio_trainer.logs.attempts import LoggedAttempt, is_current
from higgs_audio_trainer.logs.files import AttemptFiles, parse_name
from higgs_audio_trainer.logs.lines import EventOf, LogFile, LogLine, OnProblem, ignore_problem, int_field, tail
from higgs_audio_trainer.logs.logged_runs import LoggedRun, attempt_of, run_id_of
from higgs_audio_trainer.logs.run_filter import OnNotice, RunFilter
from higgs_audio_trainer.logs.runs import SelectedLog, selected
from higgs_audio_trainer.logs.source import allow_open_files
from higgs_audio_trainer.logs.typed import Logged, Record, typed

_REMEMBERED = 64  # recent lines that are compared to find repeated lines
_BEFORE_ALL = -1  # place of `run_start`
_Key = tuple[int, int, int]  # place, rank and attempt; the place is the step by which a line is sorted
_Item = tuple[_Key, LogLine]


class LoggedEvents(Iterator[Logged]):
    """Events of logs, in order. A notebook shows the summaries of the logs in place of the object.

    Args:
        events: The events.
        paths: Paths of the logs.
        run: Id of the run to read.
    """

    def __init__(self, events: Iterator[Logged], paths: Sequence[str | Path], run: str | None) -> None:
        self._events = events
        self._paths = paths
        self._run = run

    def __iter__(self) -> Iterator[Logged]:  # noqa: PYI034 - a loop over `self` would take longer
        return self._events

    def __next__(self) -> Logged:
        return next(self._events)

    def __repr__(self) -> str:
        return f"<events of {', '.join(map(str, self._paths))!r}>"

    def _repr_html_(self) -> str | None:
        """Return the summaries of the logs. Standard input can be read only once, and has no summary."""
        from higgs_audio_trainer.logs.summary.html import summaries_html

        return None if "-" in self._paths else summaries_html(self._paths, self._run)


def read(
    *paths: str | Path,
    run: str | None = None,
    all_attempts: bool = False,
    on_problem: OnProblem | None = None,
    on_notice: OnNotice | None = None,
) -> Iterator[Logged]:
    r"""Read logs as typed events: instances of the classes in `events`, with the envelope's fields as attributes.

    By default a repeated step counts once, with the events of the highest attempt. `run_start` and `run_end` come from
    the highest attempt. If an evaluation was repeated at a resume, the later result counts. A resumed run then reads
    like a run without a stop, except for the checkpoint saved at the stop.

    Of a log with several runs, such as two trainings in one folder, one run is read: the run that began last, or the
    first run of standard input.

    Args:
        paths: Output directory of a run, folder of log files, or files. The files of a folder are read as a single log.
            A file not named by the JSONL sink is read in its own order. `-` is standard input. Files may be compressed
            with gzip or zstd. Several logs are read in turn.
        run: Id of the run to read, or the beginning of the id.
        all_attempts: Yield the events of every attempt.
        on_problem: Receives each invalid line. Without `on_problem`, invalid lines are skipped.
        on_notice: Receives each message about a log with several runs or with events of a newer version. By default a
            Python warning.

    Raises:
        UserError: A path holds no log, or `run` names no run or several runs. During iteration, a file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> line = '{"event": "checkpoint", "v": 1, "rank": 0, "level": "info", "step": 10, "path": "checkpoint-10"}'
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "rank00000-attempt000.jsonl"
        ...     _ = path.write_text(line + "\n")
        ...     [(event.event, event.step, event.path) for event in read(folder)]
        [('checkpoint', 10, 'checkpoint-10')]
    """
    lines = read_lines(*paths, run=run, all_attempts=all_attempts, on_problem=on_problem, on_notice=on_notice)
    return LoggedEvents((line.event for line in lines), paths, run)


def read_lines(
    *paths: str | Path,
    run: str | None = None,
    all_attempts: bool = False,
    on_problem: OnProblem | None = None,
    on_notice: OnNotice | None = None,
    event_of: EventOf = typed,
) -> Iterator[LogLine]:
    """Read logs like `read`, as lines with the JSON object, the bytes and the place of each event.

    `event_of` is as for `LogFile`.
    """
    logs = selected(paths, run, on_notice)
    return (
        line
        for log in logs
        for line, is_current in marked_lines(log, on_problem or ignore_problem, event_of=event_of)
        if is_current or all_attempts
    )


def marked_lines(
    log: SelectedLog, on_problem: OnProblem, *, keep_invalid: bool = False, event_of: EventOf = typed
) -> Iterator[tuple[LogLine, bool]]:
    """Yield the lines of all attempts of a log, each with True if `read` yields the line's event.

    With `keep_invalid`, an object with an event name and an invalid field is reported to `on_problem` and then yielded
    with `event` None. `event_of` is as for `LogFile`.

    Raises:
        UserError: A file cannot be read, or the log lacks needed events, see `RunFilter`.
    """
    files, takes, _ = log
    merger = Merger(log)
    merger.look_ahead(log)

    def lines(group: AttemptFiles) -> Iterator[LogLine]:
        for path in group.files:
            yield from LogFile(path, on_problem, keep_invalid=keep_invalid, event_of=event_of, takes=takes).lines()

    for key, line in merger.merged((group, lines(group)) for group in files):
        yield line, merger.shows(key, line.record)
    takes.finish()


class Merger:
    """Sorts the lines of all ranks and attempts of a log, and finds the replaced lines.

    `merged` may be called again with the lines written since the last call.

    Args:
        log: The log. The lines of a file in its own order may belong to several runs and attempts.
    """

    def __init__(self, log: SelectedLog) -> None:
        allow_open_files(len(log.files))
        self._joined = None if parse_name(log.files[0].files[0]) else _JoinedLines(log.runs)
        self._attempts: dict[int, LoggedAttempt] = {}
        self._streams: dict[tuple[int, int], _AttemptLines] = {}

    def look_ahead(self, log: SelectedLog) -> None:
        """Find the last step of each attempt, to know the replaced steps of earlier attempts."""
        for group in log.files:
            self._attempts.setdefault(group.attempt, LoggedAttempt(group.attempt))
        if len(self._attempts) > 1:
            for group in log.files:
                for record in _last_records(group.files, log.takes):
                    self._attempts[group.attempt].reach(record)

    def merged(self, log: Iterable[tuple[AttemptFiles, Iterable[LogLine]]]) -> Iterator[_Item]:
        """Yield lines in the order of `read`, each with its sort key.

        Args:
            log: Lines of each rank and attempt, in written order.
        """
        parts = [(self._joined or self._stream(group)).placed(lines) for group, lines in log]
        return heapq.merge(*parts, key=itemgetter(0))  # reads the first line of every group before the first yield

    def shows(self, key: _Key, record: Record) -> bool:
        """Return True if no later attempt replaced the line last yielded by `merged`."""
        place, _, attempt = key
        if self._joined is not None and not self._joined.is_known:
            return True
        attempts = self._attempts if self._joined is None else self._joined.attempts_of(record)
        return len(attempts) == 1 or is_current(attempts[attempt], record, place, attempts.values())

    def forget(self, rank: int, attempt: int) -> None:
        """Forget the lines of a rank and attempt whose files were replaced."""
        self._streams.pop((rank, attempt), None)
        if self._joined is not None:
            self._joined = _JoinedLines(())

    def _stream(self, group: AttemptFiles) -> _AttemptLines:
        attempt = self._attempts.setdefault(group.attempt, LoggedAttempt(group.attempt))
        return self._streams.setdefault((group.rank, group.attempt), _AttemptLines(group.rank, attempt))


class _JoinedLines:
    """State of reading a file in its own order, whose lines may belong to several runs, ranks and attempts.

    Args:
        runs: Runs of the file with their attempts; empty for standard input, whose later lines are unknown.

    Attributes:
        is_known: Whether the attempts are known before the lines are read.
    """

    def __init__(self, runs: Sequence[LoggedRun]) -> None:
        self.is_known = bool(runs)
        self._attempts = {run.run_id: dict(run.attempts) for run in runs}
        self._streams: dict[tuple[str | None, int, int], _AttemptLines] = {}

    def attempts_of(self, record: Record) -> dict[int, LoggedAttempt]:
        """Return the attempts of a record's run by number."""
        return self._attempts.setdefault(run_id_of(record), {})

    def placed(self, lines: Iterable[LogLine]) -> Iterator[_Item]:
        """Return an iterator of lines with their places, each in its own rank and attempt."""
        return filter(None, map(self._item, lines))

    def _item(self, line: LogLine) -> _Item | None:
        number, rank = attempt_of(line.record), int_field(line.record, "rank") or 0
        key = run_id_of(line.record), rank, number
        if key not in self._streams:
            attempt = self.attempts_of(line.record).setdefault(number, LoggedAttempt(number))
            self._streams[key] = _AttemptLines(rank, attempt)
        return self._streams[key].item(line)


def _last_records(files: Sequence[Path], takes: RunFilter) -> Iterator[Record]:
    """Yield the last records of a run's rank and attempt, newest first.

    The last yielded record is the newest record with a step, apart from `run_end` and late events.
    """
    for record in (record for path in reversed(files) for record in tail(path) if takes.is_of_run(record)):
        yield record
        is_of_last_step = record["event"] not in LATE_EVENTS and record["event"] != "run_end"
        if is_of_last_step and int_field(record, "step") is not None:
            return


class _AttemptLines:
    """State of reading the lines of one rank and attempt.

    Args:
        rank: Rank.
        attempt: Attempt; updated with each record.
    """

    def __init__(self, rank: int, attempt: LoggedAttempt) -> None:
        self._rank = rank
        self._attempt = attempt
        self._place = _BEFORE_ALL
        self._start: int | None = None
        self._recent: deque[int] = deque(maxlen=_REMEMBERED)

    def placed(self, lines: Iterable[LogLine]) -> Iterator[_Item]:
        """Return an iterator of lines with their sort keys. Places never decrease, so lines keep their order."""
        return filter(None, map(self.item, lines))

    def item(self, line: LogLine) -> _Item | None:
        """Return a line with its sort key; None for a repeated line."""
        if self._is_repeated(line):
            return None
        self._attempt.update(line.record)
        step = int_field(line.record, "step")
        if line.record["event"] != "run_start":
            self._place = max(self._place, self._attempt.start if step is None else step)
        return (self._place, self._rank, self._attempt.number), line

    def _is_repeated(self, line: LogLine) -> bool:
        """Return True if the line appeared before.

        A segment begins with a copy of `run_start`, then with the last line of the segment before if a failed write
        left the line's state unknown.
        """
        digest = hash(line.raw.rstrip())
        if "seq" in line.record and (digest == self._start or digest in self._recent):  # lines of a golden may be equal
            return True
        self._recent.append(digest)
        if self._start is None and line.record["event"] == "run_start":
            self._start = digest
        return False
