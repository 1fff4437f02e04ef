"""Runs of a log, told apart by `run_id`, and the choice of the run that a reader shows.

The files of a folder, or the lines of a file, can belong to several runs: two trainings in one folder, or two logs
joined by `cat`. A reader shows one run and says which. The attempts of a resumed run have one `run_id` and are one run.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import SCHEMA_VERSION
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.files import AttemptFiles, find, parse_name
from higgs_audio_trainer.logs.lines import LONGEST_LINE, parse_line
from higgs_audio_trainer.logs.source import DAMAGED, STDIN, opened, unreadable
from higgs_audio_trainer.logs.typed import Record

OnNotice = Callable[[str], None]

_BLOCK_BYTES = 2**16
_MOST_NAMED = 8  # runs named in a message
_WITHOUT_ID = "none"  # the value of `--run` for lines without a `run_id`, as in a golden
_UNDECIDED = "\0undecided"


@dataclass(slots=True)
class LoggedRun:
    """A run of a log.

    Attributes:
        run_id: Id of the run; None for lines without an id, as in a golden.
        begun: Time of the latest `run_start`; of the first event without a `run_start`; None without times.
        parts: Rank and attempt of each group of files with lines of the run.
    """

    run_id: str | None
    begun: str | None = None
    parts: set[tuple[int, int]] = field(default_factory=set)
    has_start: bool = False

    def take(self, record: Record) -> None:
        """Update the time with a record of the run."""
        ts = record.get("ts")
        if not isinstance(ts, str):
            return
        if record["event"] != "run_start":
            self.begun = self.begun or ts
        else:
            self.begun = max(self.begun, ts) if self.has_start and self.begun else ts
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
        if run_id != self.chosen and not self._takes_other(run_id):
            return False
        if record.get("v") == SCHEMA_VERSION:
            self._is_known = True
        elif is_newer(record):
            self._newer.add(record["v"])
        return True

    def is_of_run(self, record: Record) -> bool:
        """Return True if a record is of a taken run, without a message and without a choice."""
        return self.takes_every or self.chosen in (_UNDECIDED, run_id_of(record))

    def _takes_other(self, run_id: str | None) -> bool:
        """Return True if a record of another run than the chosen run is read."""
        is_new = run_id not in self.others
        self.others.add(run_id)
        if self.takes_every:
            if is_new and len(self.others) > 1:
                self.say(f"{self.name}: another run, {run_id}. Each run counts for itself; --run ID chooses one")
            return True
        if not is_new:
            return False
        is_wanted = self.run is None or _is_named(run_id, self.run)
        if self.chosen == _UNDECIDED:
            self.chosen = run_id if is_wanted else self.chosen
            return is_wanted
        if self.run is not None:
            if is_wanted:
                raise _ambiguous(self.run, [self.chosen, run_id])
            return False
        if self.takes_newest:
            self.say(f"{self.name}: another run began, {run_id}, and is shown from here. --run ID chooses one run")
            self.chosen = run_id
            return True
        self.say(f"{self.name}: another run, {run_id}, is left out. --run ID chooses a run; this is {self.chosen}")
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


def followed(log: Sequence[AttemptFiles], run: str | None, say: OnNotice) -> RunFilter:
    """Return the filter for a growing log: the wanted run, else the run that began last and then every new run.

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
    return takes


def runs_in(log: Sequence[AttemptFiles]) -> list[LoggedRun]:
    """Return the runs of a log in the order of their first lines.

    Raises:
        UserError: A file cannot be read.
    """
    runs: dict[str | None, LoggedRun] = {}
    for group in log:
        for path in group.files:
            for block in _blocks(path):
                for run in _runs_of(block, runs):
                    run.parts.add(group[:2])
    return list(runs.values())


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
    runs: dict[str | None, LoggedRun] = {}
    for record in records:
        _run_of(record, runs).take(record)
    if run is not None:
        wanted = _resolved(run, [(name, list(runs.values()))])
        return [record for record in records if (run_id_of(record) or _WITHOUT_ID) == wanted]
    if len(runs) < 2:  # noqa: PLR2004 - one run needs no choice
        return list(records)
    chosen = latest(runs.values()).run_id
    say(f"{name}: {named(list(runs.values()))}. This is {chosen or _WITHOUT_ID}, the latest")
    return [record for record in records if run_id_of(record) == chosen]


def _run_of(record: Record, runs: dict[str | None, LoggedRun]) -> LoggedRun:
    run_id = run_id_of(record)
    if run_id not in runs:
        runs[run_id] = LoggedRun(run_id)
    return runs[run_id]


def _runs_of(block: bytes, runs: dict[str | None, LoggedRun]) -> Iterator[LoggedRun]:
    """Yield the runs of a block of lines.

    Counts of the last run's id prove nearly every block to be of one run. Other blocks are parsed.
    """
    lines = block.count(b"\n")
    for run in reversed(runs.values()):
        if (
            run.run_id is not None
            and block.count(b'"run_id":"%s"' % run.run_id.encode(errors="replace")) == lines
            and block.count(b'"run_id"') == lines
            and b'"run_start"' not in block
        ):
            yield run
            return
        break
    for line in block.splitlines(keepends=True):
        record = parse_line(line)
        if not isinstance(record, InvalidField):
            run = _run_of(record, runs)
            run.take(record)
            yield run


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
