"""Command `export LOG --to NAME`. Copies a log to an experiment tracker or to Parquet files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from glob import escape
from pathlib import Path
from shlex import quote
from typing import Any

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.cli.tracker_export import PARQUET, TRACKIO, TrackerExport, pass_on
from higgs_audio_trainer.config import expanded
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.lines import LogLine, OnProblem
from higgs_audio_trainer.logs.reader import marked_lines
from higgs_audio_trainer.logs.runs import selected
from higgs_audio_trainer.phases import phase
from sinks.terminal.words import count_of

TARGETS = (TRACKIO, "tensorboard", "wandb", "mlflow", PARQUET)
#: Commands to view exported data, by target.
_VIEWERS = {
    TRACKIO: "trackio show --project {project}",
    "tensorboard": "tensorboard --logdir {where}",
    "wandb": "wandb sync {where}/wandb/offline-run-*",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{where}/mlflow.db",
    PARQUET: "duckdb -c {query}",
}
_QUERY = "SELECT step, loss FROM '{}/event=train_step/*/*.parquet'"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # the run id becomes the name of a file
_GOLDEN = "golden"


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Copy a log to an experiment tracker. The tracker gets the same data as from the live sink: "
        "scalars of each step, a row for each sample, diagnoses. Or copy a log to Parquet files with all fields, "
        "in a folder for each event and rank. Running the command again exports only new events. Of a log with "
        "several runs, every run is exported, each under its own id.",
        epilog=f"example: {prog} my-run --to tensorboard",
    )
    made.add_argument("log", metavar="FILE|DIR", help="output directory of a run, a log file, - for stdin")
    made.add_argument("--to", choices=TARGETS, required=True, help="tracker or file format")
    made.add_argument("--run", metavar="ID", help="of a log with several runs, this one (all); a prefix is enough")
    made.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="folder to write (default: trackio's own store; otherwise exported/NAME beside the log)",
    )
    add_no_limits(made, is_listed=False)  # the help fits a screen, and messages name the flag
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Export a log and return the exit status.

    Raises:
        UserError: The log cannot be read, holds no event of this version, or cannot be exported.
    """
    given = parser(prog).parse_args(arguments)
    folder = _folder(given.log, given.to, given.output)
    problems = ProblemPrinter()
    try:
        export = (
            partial(_to_parquet, on_problem=problems) if given.to == PARQUET else partial(_to_tracker, say=problems.say)
        )
        with phase("exporting the log"):
            logs = selected([given.log], given.run, problems.say, every=True, needs_known=given.to != PARQUET)
            lines = (line for log in logs for line, is_current in marked_lines(log, problems) if is_current)
            counts = export(lines, given.to, folder)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}. Name another folder with -o"
        ) from error
    if not counts:
        raise UserError(f"{given.log}: expected events, got none. Nothing was exported")
    problems.close()
    print(_summary(given.to, folder, counts))
    return 0


def _summary(target: str, folder: Path | None, counts: Mapping[str, int]) -> str:
    """Return the result of an export and the command to look at the data, in one line.

    Args:
        target: Tracker or file format.
        folder: Folder of the data; None for trackio's own store.
        counts: Number of exported events of each run.

    Example:
        >>> _summary("tensorboard", Path("my runs/exported"), {"run": 0})
        "run run: nothing new exported. To look at it: tensorboard --logdir 'my runs/exported'"
    """
    from sinks.trackers.tracker import PROJECT

    runs = f"run{'' if len(counts) == 1 else 's'} {', '.join(counts)}"
    events = count_of(sum(counts.values()), "event") if any(counts.values()) else "nothing new"
    once = ", each stored once" if target == TRACKIO else ""
    # A leading dash would be a flag, and a leading tilde a home folder.
    where = f"./{folder}" if str(folder).startswith(("-", "~")) else str(folder)
    store = f"TRACKIO_DIR={quote(where)} " if target == TRACKIO and folder else ""
    query = quote(_QUERY.format(escape(where).replace("'", "''")))
    viewer = store + _VIEWERS[target].format(where=quote(where), project=PROJECT, query=query)
    return f"{runs}: {events} exported{once}. To look at it: {viewer}"


def _folder(log: str, target: str, given: str | None) -> Path | None:
    """Return the folder to export to, by default in the log's folder. None stands for trackio's own store.

    Example:
        >>> _folder("my-run/log.jsonl", "parquet", None).as_posix()
        'my-run/exported/parquet'
    """
    if given is not None:
        return Path(expanded(given, "--output")).absolute()
    if target == TRACKIO:
        return None
    path = Path("." if log == "-" else log)
    return (path if path.is_dir() else path.parent) / "exported" / target


def _run_id(line: Any) -> str:
    run_id = line.record.get("run_id", _GOLDEN)
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise UserError(f"{line.where}: run_id: expected letters, digits, '.', '_' and '-', got {run_id!r}")
    return run_id


def _to_parquet(
    lines: Iterator[LogLine], target: str, folder: Path | None, *, on_problem: OnProblem
) -> Mapping[str, int]:
    """Export lines to Parquet files, in a folder for each event and rank.

    Returns:
        Number of exported events of each run.
    """
    from higgs_audio_trainer.logs.parquet import ParquetFiles

    assert folder is not None
    counts: Counter[str] = Counter()
    with ParquetFiles(folder, on_problem=on_problem) as files:
        for line in lines:
            run_id = _run_id(line)
            pass_on(partial(files.add, run_id), line, line, target)
            counts[run_id] += 1
    return counts


def _to_tracker(
    lines: Iterator[LogLine], target: str, folder: Path | None, *, say: Callable[[str], None]
) -> Mapping[str, int]:
    """Export new lines to a tracker. Each rank of a run is a run of its own in the tracker.

    Returns:
        Number of exported events of each run.
    """
    from sinks import SinkError

    exports: dict[str, TrackerExport] = {}
    try:
        for line in lines:
            run_id = _run_id(line)
            if run_id not in exports:
                exports[run_id] = TrackerExport(target, folder, run_id, say)
            exports[run_id].add(line)
        for export in exports.values():
            export.close()
    except SinkError as error:
        raise UserError(str(error)) from error
    return {run_id: export.count for run_id, export in exports.items()}
