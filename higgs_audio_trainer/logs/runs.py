"""Choice of the run of a log that a reader shows.

The files of a folder, or the lines of a file, can belong to several runs: two trainings in one folder, or two logs
joined by `cat`. A reader shows one run and says which. The attempts of a resumed run have one `run_id` and are one run.
"""

from __future__ import annotations

import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.files import AttemptFiles, find, parse_name
from higgs_audio_trainer.logs.logged_runs import LoggedRun, run_id_of, runs_in, shown_id, told_apart
from higgs_audio_trainer.logs.run_filter import OnNotice, RunFilter, ambiguous, is_named, missing
from higgs_audio_trainer.logs.source import STDIN, unreadable
from higgs_audio_trainer.logs.typed import Record

_MOST_NAMED = 8  # runs named in a message
#: Runs in the files of one rank and attempt, each of which needs a pass over the files. A training that takes an old
#: folder writes new files, so more runs are a damaged or a joined file.
_MOST_IN_A_FILE = 100


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


def latest(runs: Iterable[LoggedRun]) -> LoggedRun:
    """Return the latest run. Of runs with the same start time, the last run in the log counts."""
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
        wanted = [run for run in runs if run.id == takes.run]
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
            name = wanted[0].id
            takes.say(f"{takes.name}: {named(runs)}. This is {name}, the latest; --run ID chooses another")
    if len(wanted) > _MOST_IN_A_FILE:
        _refuse_many(wanted, takes.name)
    known = {part for run in runs for part in run.parts}
    for one in wanted:
        files = [group for group in log if group[:2] in one.parts or group[:2] not in known]
        chosen = RunFilter(takes.name, takes.say, None, one.run_id, takes.others, needs_known=takes.needs_known)
        yield SelectedLog(files, chosen, [one])


def _refuse_many(runs: Sequence[LoggedRun], name: str) -> None:
    """Refuse more runs in the files of one rank and attempt than passes over the files are worth.

    Raises:
        UserError: A rank and attempt has too many runs.
    """
    [((rank, attempt), count)] = Counter(part for run in runs for part in run.parts).most_common(1)
    if count > _MOST_IN_A_FILE:
        raise UserError(
            f"{name}: expected at most {_MOST_IN_A_FILE} runs in the files of rank {rank} and attempt {attempt}, got "
            f"{count:,}. --run ID chooses one run; a file with another name, such as joined.jsonl, may hold any number"
        )


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
    elif run is not None and any(is_named(one.run_id, run) for one in runs):
        takes.run = _resolved(run, [(takes.name, runs)])
    elif runs:
        say(f"{takes.name}: {named(runs)}. Waiting for a run {run}")
    return SelectedLog(log, takes, runs)


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
    runs = told_apart(found)
    if run is not None:
        wanted = _resolved(run, [(name, runs)])
    elif len(runs) > 1:
        wanted = latest(runs).id
        say(f"{name}: {named(runs)}. This is {wanted}, the latest")
    else:
        return list(records)
    others = {one.run_id for one in runs if one.id != wanted}
    return [record for record in records if run_id_of(record) not in others]


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


def _resolved(run: str, logs: Sequence[tuple[str, Sequence[LoggedRun] | None]]) -> str:
    """Return the id of the wanted run. With standard input among the logs, the id may be unknown.

    Raises:
        UserError: No log or several logs hold a run with the wanted beginning.
    """
    known = dict.fromkeys(one.run_id for _, runs in logs for one in runs or ())
    found = [run_id for run_id in known if is_named(run_id, run)]
    if any(shown_id(run_id) == run for run_id in found):
        return run
    if len(found) > 1:
        raise ambiguous(run, found)
    if found:
        return shown_id(found[0])
    if all(runs is not None for _, runs in logs):
        raise missing(run, ", ".join(name for name, _ in logs), known)
    return run
