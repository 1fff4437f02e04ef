"""Runs of a log, told apart by `run_id`, and the choice of the run that a reader shows.

The files of a folder, or the lines of a file, can belong to several runs: two trainings in one folder, or two logs
joined by `cat`. A reader shows one run and says which. The attempts of a resumed run have one `run_id` and are one run.
"""

from __future__ import annotations

import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import SCHEMA_VERSION
from higgs_audio_trainer.logs.attempts import LoggedAttempt
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.files import AttemptFiles, find, parse_name
from higgs_audio_trainer.logs.lines import LONGEST_LINE, int_field, parse_line
from higgs_audio_trainer.logs.source import DAMAGED, STDIN, opened, unreadable
from higgs_audio_trainer.logs.typed import Record, typed

OnNotice = Callable[[str], None]

_BLOCK_BYTES = 2**16
_MOST_NAMED = 8  # runs named in a message
_WITHOUT_ID = "none"  # the value of `--run` for lines without a `run_id`, as in a golden
#: Members of a line that tell run and attempt apart. The bytes after `attempt` end the number.
_MEMBERS = (re.compile(rb'"run_id":\s*"[^"\\]*"'), re.compile(rb'"attempt":\s*\d+\s*[,}]'))
_UNDECIDED = "\0undecided"


@dataclass(slots=True)
class LoggedRun:
    """A run of a log.

    Attributes:
        run_id: Id of the run; None for lines without an id, as in a golden.
        begun: Time of the latest `run_start`; of the first event without a `run_start`; None without times.
        parts: Rank and attempt of each group of files with lines of the run.
        attempts: Attempts of the run by number.
        has_start: Whether the run has a `run_start`.
    """

    run_id: str | None
    begun: str | None = None
    parts: set[tuple[int, int]] = field(default_factory=set)
    attempts: dict[int, LoggedAttempt] = field(default_factory=dict)
    has_start: bool = False

    def take(self, record: Record) -> None:
        """Update the time and the attempt with a record of the run."""
        number = attempt_of(record)
        self.attempts.setdefault(number, LoggedAttempt(number)).update(record)
        ts = record.get("ts")
        if not isinstance(ts, str):
            ts = None
        if record["event"] != "run_start":
            self.begun = self.begun or ts
        else:
            self.begun = max(self.begun or "", ts or "") or None if self.has_start else ts
            self.has_start = True

    def __str__(self) -> str:
        name = f"{_WITHOUT_ID} (lines without a run_id)" if self.run_id is None else self.run_id
        return name if self.begun is None else f"{name} (begun {self.begun[:19].replace('T', ' ')})"


class NoSuchRunError(UserError):
    """No log holds the wanted run."""


class SelectedLog(NamedTuple):
    """A log and the choice of its lines.

    Attributes:
        files: Files of the log with lines of the taken runs.
        takes: Filter for the records.
        runs: Runs of the log; empty if unknown, as for standard input.
    """

    files: Sequence[AttemptFiles]
    takes: RunFilter
    runs: Sequence[LoggedRun] = ()


def warn(text: str) -> None:
    """Say something about a log to a caller of the Python API."""
    warnings.warn(text, stacklevel=2)


def run_id_of(record: Record) -> str | None:
    """Return the id of a record's run; None without an id."""
    run_id = record.get("run_id")
    return run_id if isinstance(run_id, str) else None


def attempt_of(record: Record) -> int:
    """Return the number of a record's attempt; 0 without a number."""
    return int_field(record, "attempt") or 0


def is_newer(record: Record) -> bool:
    """Return True if a newer major version of this package wrote a record."""
    version = record.get("v")
    return type(version) is int and version > SCHEMA_VERSION


def latest(runs: Iterable[LoggedRun]) -> LoggedRun:
    """Return the run that began last. Of runs that began at the same time, the last of the log counts."""
    chosen, *others = runs
    for run in others:
        if (run.begun or "") >= (chosen.begun or ""):
            chosen = run
    return chosen


def named(runs: Sequence[LoggedRun]) -> str:
    """Return the number, ids and times of runs as text.

    Example:
        >>> named([LoggedRun("a1b2", "2026-01-02T03:04:05.000006Z"), LoggedRun("c3d4")])
        '2 runs: a1b2 (begun 2026-01-02 03:04:05), c3d4'
    """
    more = f" and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    return f"{len(runs)} runs: {', '.join(map(str, runs[:_MOST_NAMED]))}{more}"


@dataclass(slots=True)
class RunFilter:
    """Takes the records of one run, or of every run, and says what else a log holds.

    Attributes:
        name: Name of the log in messages.
        say: Receives each message about the log, a line.
        run: Id of the wanted run, or the beginning of the id; None for a choice of the filter.
        chosen: Id of the run, None for lines without an id. At first undecided for standard input.
        others: Ids of runs already named in a message.
        takes_every: Whether the records of every run are taken.
        takes_newest: Whether a new run takes the place of the chosen run.
        needs_known: Whether `finish` refuses a log without an event of this version.
    """

    name: str
    say: OnNotice
    run: str | None = None
    chosen: str | None = _UNDECIDED
    others: set[str | None] = field(default_factory=set)
    takes_every: bool = False
    takes_newest: bool = False
    needs_known: bool = False
    _newer: set[int] = field(default_factory=set)  # versions of events
    _is_known: bool = False
    _is_said: bool = False

    def __call__(self, record: Record) -> bool:
        """Return True if a record is read."""
        run_id = run_id_of(record)
        if run_id is None and record.get("run_id") is not None:
            return True  # an invalid line, which readers report
        if run_id != self.chosen and not self._takes_other(run_id, record["event"]):
            return False
        if record.get("v") == SCHEMA_VERSION:
            self._is_known = True
        elif is_newer(record):
            self._newer.add(record["v"])
        return True

    def is_of_run(self, record: Record) -> bool:
        """Return True if a record is of a taken run, without a message and without a choice."""
        return self.takes_every or self.chosen in (_UNDECIDED, run_id_of(record))

    def _takes_other(self, run_id: str | None, event: str) -> bool:
        """Return True if a record of another run than the chosen run is read."""
        if run_id is None and None not in self.others and event != "run_start":
            return self.run is None or self.chosen != _UNDECIDED  # a stray line, not a golden
        is_new = run_id not in self.others
        self.others.add(run_id)
        if self.takes_every:
            if is_new and len(self.others) > 1:
                self.say(f"{self.name}: another run, {run_id}. Each run counts for itself; --run ID chooses one")
            return True
        return is_new and self._takes_new(run_id)

    def _takes_new(self, run_id: str | None) -> bool:
        """Return True if the first record of an unknown run is read. The run is then the chosen run."""
        is_wanted = self.run is None or _is_named(run_id, self.run)
        if self.chosen != _UNDECIDED and self.run is not None:
            if is_wanted:
                raise _ambiguous(self.run, [self.chosen, run_id])
        elif self.chosen != _UNDECIDED and not self.takes_newest:
            self.say(f"{self.name}: another run, {run_id}, is left out. --run ID chooses a run; this is {self.chosen}")
        elif is_wanted:
            if self.chosen != _UNDECIDED:
                self.say(f"{self.name}: another run began, {run_id}, and is shown from here. --run ID chooses one run")
            self.chosen = run_id
            return True
        return False

    def finish(self, *, says_versions: bool = True) -> None:
        """Say after the last line that the log has events of a newer version.

        Args:
            says_versions: Whether to say the versions.

        Raises:
            UserError: The log holds no event of the wanted run, or no event of this version although events of this
                version are needed.
        """
        if self.run is not None and self.chosen == _UNDECIDED:
            raise _missing(self.run, self.name, self.others)
        if says_versions:
            self.say_versions()

    def say_versions(self) -> None:
        """Say once that the log has events of a newer version."""
        if self._is_said or not self._newer:
            return
        text = (
            f"{self.name}: expected events of version {SCHEMA_VERSION}, got version "
            f"{', '.join(map(str, sorted(self._newer)))} of a newer higgs-audio-trainer. Update higgs-audio-trainer to "
            "read these events"
        )
        if self.needs_known and not self._is_known:
            raise UserError(text)
        self._is_said = True
        self.say(text)


def selected(
    paths: Iterable[str | Path],
    run: str | None = None,
    on_notice: OnNotice | None = None,
    *,
    every: bool = False,
    split: bool = True,
    needs_known: bool = False,
) -> list[SelectedLog]:
    """Find the logs at paths, and choose a run of each log: the wanted run, else the run that began last.

    Each file is read once to find its runs. Standard input and pipes can be read only once, so their first run counts.

    Args:
        paths: Paths as for `find`.
        run: Id of the wanted run, or the beginning of the id. Logs without the run are left out.
        on_notice: Receives each message about a log, for example the ids of its runs. By default a Python warning.
        every: Without a wanted run, choose every run.
        split: Return a log for each of the chosen runs of a folder. The runs of a file in its own order stay together.
        needs_known: Refuse, after the last line, a log with no event of this version.

    Raises:
        UserError: A path holds no log, no log holds the wanted run, or several runs have the wanted beginning.
    """
    say = on_notice or warn
    logs = [(log, None if is_read_once(log[0].files[0]) else runs_in(log)) for log in find(paths)]
    if run is not None:
        run = _resolved(run, [(log_name(log), runs) for log, runs in logs])
    chosen: list[SelectedLog] = []
    for log, runs in logs:
        takes = RunFilter(log_name(log), say, run, takes_every=every and run is None, needs_known=needs_known)
        if not runs:
            chosen += [] if run is not None and runs is not None else [SelectedLog(log, takes)]
        else:
            chosen += _selected(log, runs, takes, split=split)
    return chosen


def _selected(
    log: Sequence[AttemptFiles], runs: Sequence[LoggedRun], takes: RunFilter, *, split: bool = True
) -> Iterator[SelectedLog]:
    """Yield the wanted run of a log, the latest run, or every run."""
    takes.others = {run.run_id for run in runs}
    if takes.run is not None:
        wanted = [run for run in runs if (run.run_id or _WITHOUT_ID) == takes.run]
    elif takes.takes_every:
        wanted = sorted(runs, key=lambda run: run.begun or "")
        if len(runs) > 1:
            takes.say(f"{takes.name}: {named(wanted)}. Each counts for itself; --run ID chooses one")
        if len(runs) == 1 or not split or parse_name(log[0].files[0]) is None:
            yield SelectedLog(log, takes, runs)
            return
    else:
        wanted = [latest(runs)]
        if len(runs) > 1:
            name = wanted[0].run_id or _WITHOUT_ID
            takes.say(f"{takes.name}: {named(runs)}. This is {name}, the latest; --run ID chooses another")
    known = {part for run in runs for part in run.parts}
    for one in wanted:
        files = [group for group in log if group[:2] in one.parts or group[:2] not in known]
        chosen = RunFilter(takes.name, takes.say, None, one.run_id, set(takes.others), needs_known=takes.needs_known)
        yield SelectedLog(files, chosen, [one])


def followed(log: Sequence[AttemptFiles], run: str | None, say: OnNotice) -> SelectedLog:
    """Return the choice for a growing log: the wanted run, else the run that began last and then every new run.

    Raises:
        UserError: Several runs have the wanted beginning.
    """
    runs = [] if is_read_once(log[0].files[0]) else runs_in(log)
    takes = RunFilter(log_name(log), say, run, takes_newest=True)
    if run is None and runs:
        [(_, takes, _)] = _selected(log, runs, takes)
        takes.takes_newest = True
    elif run is not None and any(_is_named(one.run_id, run) for one in runs):
        takes.run = _resolved(run, [(takes.name, runs)])
    elif runs:
        say(f"{takes.name}: {named(runs)}. Waiting for a run {run}")
    return SelectedLog(log, takes, runs)


def runs_in(log: Sequence[AttemptFiles]) -> list[LoggedRun]:
    """Return the runs of a log in the order of their first lines.

    Raises:
        UserError: A file cannot be read.
    """
    scan = _Scan()
    for group in log:
        for path in group.files:
            for block in _blocks(path):
                for run in scan.take(block):
                    run.parts.add(group[:2])
            scan.end_file()
    return _told_apart(scan.runs)


def of_run(records: Sequence[Record], run: str | None, say: OnNotice, *, name: str) -> list[Record]:
    """Return the records of the wanted run, else of the run that began last.

    Args:
        records: Records of a log.
        run: Id of the wanted run, or the beginning of the id.
        say: Receives a message if the records are of several runs and none is wanted.
        name: Name of the log in messages.

    Raises:
        UserError: No run or several runs have the wanted beginning.

    Example:
        >>> records = [{"event": "train_step", "run_id": run_id} for run_id in ("a1b2", "c3d4")]
        >>> of_run(records, "a1", print, name="records")
        [{'event': 'train_step', 'run_id': 'a1b2'}]
    """
    found: dict[str | None, LoggedRun] = {}
    for record in records:
        found.setdefault(run_id_of(record), LoggedRun(run_id_of(record))).take(record)
    runs = _told_apart(found)
    if run is not None:
        wanted = _resolved(run, [(name, runs)])
    elif len(runs) > 1:
        wanted = latest(runs).run_id or _WITHOUT_ID
        say(f"{name}: {named(runs)}. This is {wanted}, the latest")
    else:
        return list(records)
    others = {one.run_id for one in runs if (one.run_id or _WITHOUT_ID) != wanted}
    return [record for record in records if run_id_of(record) not in others]


def _told_apart(runs: Mapping[str | None, LoggedRun]) -> list[LoggedRun]:
    """Return the runs. Lines without a `run_id` are a run if a `run_start` is among them, else stray lines of any run.

    Example:
        >>> [run.run_id for run in _told_apart({"a1b2": LoggedRun("a1b2"), None: LoggedRun(None)})]
        ['a1b2']
    """
    strays = runs.get(None)
    if strays is None or strays.has_start or len(runs) == 1:
        return list(runs.values())
    return [run for run in runs.values() if run is not strays]


class _Scan:
    """Finds the runs and attempts of blocks of lines.

    Counts of the last line's `run_id` and `attempt` prove nearly every block to be of one attempt. Only the last of
    such blocks, and all other blocks, are parsed.
    """

    def __init__(self) -> None:
        self.runs: dict[str | None, LoggedRun] = {}
        self._run: LoggedRun | None = None  # run of the last line
        self._members: tuple[bytes, ...] = ()  # `run_id` and `attempt` of the last line
        self._held = b""  # last block that was not parsed

    def take(self, block: bytes) -> Iterable[LoggedRun]:
        """Return the runs of a block."""
        lines = block.count(b"\n")
        if (
            self._run is not None
            and self._members
            and all(block.count(member) == lines for member in (*self._members, b'"run_id"'))
            and b'"run_start"' not in block
        ):
            self._held = block
            return (self._run,)
        self.end_file()
        return self._parse(block)

    def end_file(self) -> None:
        """Parse the last block."""
        held, self._held = self._held, b""
        self._parse(held)

    def _parse(self, block: bytes) -> list[LoggedRun]:
        found: dict[str | None, LoggedRun] = {}
        for line in block.splitlines(keepends=True):
            record = parse_line(line)
            if isinstance(record, InvalidField) or isinstance(typed(record), InvalidField):
                continue
            run_id = run_id_of(record)
            self._run = found[run_id] = self.runs.setdefault(run_id, LoggedRun(run_id))
            self._run.take(record)
            members = [pattern.search(line) for pattern in _MEMBERS]
            self._members = tuple(member[0] for member in members if member) if all(members) else ()
        return list(found.values())


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of whole lines. Damaged data ends the blocks, and is reported by readers."""
    rest = b""
    with opened(path) as file:
        while True:
            try:
                part = file.read1(_BLOCK_BYTES)  # type: ignore[attr-defined]
            except DAMAGED:
                part = b""
            except OSError as error:
                raise unreadable(path, error) from error
            if not part:
                break
            lines, newline, rest = (rest + part).rpartition(b"\n")
            if newline:
                yield lines + newline
            elif len(rest) > LONGEST_LINE:
                rest = b""
    if rest:
        yield rest


def is_read_once(path: Path) -> bool:
    """Return True for standard input and pipes.

    Raises:
        UserError: The path cannot be examined.
    """
    if path == STDIN:
        return True
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def log_name(log: Sequence[AttemptFiles]) -> str:
    """Return the name of a log in messages: the file, or the folder of several files."""
    first = log[0].files[0]
    if first == STDIN:
        return "standard input"
    return str(first if sum(len(group.files) for group in log) == 1 else first.parent)


def _is_named(run_id: str | None, run: str) -> bool:
    return (run_id or _WITHOUT_ID).startswith(run)


def _resolved(run: str, logs: Sequence[tuple[str, Sequence[LoggedRun] | None]]) -> str:
    """Return the id of the wanted run. With standard input among the logs, the id may be unknown.

    Raises:
        UserError: No log or several logs hold a run with the wanted beginning.
    """
    known = dict.fromkeys(one.run_id for _, runs in logs for one in runs or ())
    found = [run_id for run_id in known if _is_named(run_id, run)]
    if any((run_id or _WITHOUT_ID) == run for run_id in found):
        return run
    if len(found) > 1:
        raise _ambiguous(run, found)
    if found:
        return found[0] or _WITHOUT_ID
    if all(runs is not None for _, runs in logs):
        raise _missing(run, ", ".join(name for name, _ in logs), known)
    return run


def _ambiguous(run: str, found: Sequence[str | None]) -> UserError:
    ids = ", ".join(run_id or _WITHOUT_ID for run_id in found)
    return UserError(f"--run: expected the id of one run or its beginning, got {run!r}, which begins {ids}")


def _missing(run: str, name: str, known: Iterable[str | None]) -> NoSuchRunError:
    ids = ", ".join(run_id or _WITHOUT_ID for run_id in known) or "no run"
    return NoSuchRunError(f"--run: expected the id of a run of {name} or its beginning ({ids}), got {run!r}")
