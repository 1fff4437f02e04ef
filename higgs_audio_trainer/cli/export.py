"""Command `export LOG --to NAME`. Copies a log to an experiment tracker or to Parquet files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from glob import escape
from pathlib import Path
from shlex import quote
from typing import Any

from higgs_audio_trainer.atomic_file import atomic_file, make_folder
from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.lines import LogLine
from higgs_audio_trainer.logs.reader import marked_lines
from higgs_audio_trainer.logs.runs import is_newer, selected
from sinks.terminal.words import count_of

PARQUET, TRACKIO = "parquet", "trackio"
TARGETS = (TRACKIO, "tensorboard", "wandb", "mlflow", PARQUET)
#: Commands to view exported data, by target.
_VIEWERS = {
    TRACKIO: "trackio show --project {project}",
    "tensorboard": "tensorboard --logdir {where}",
    "wandb": "wandb sync {where}/wandb/offline-run-*",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{where}/mlflow.db",
    PARQUET: "duckdb -c {query}",
}
_QUERY = "SELECT step, loss FROM '{}/*/train_step.parquet'"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # the run id becomes the name of a folder
_GOLDEN = "golden"
_POSITION = {"run_id": str, "attempt": int, "rank": int, "seq": int, "ts": str}  # sort key of trackers


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Copy a log to an experiment tracker. The tracker gets the same data as from the live sink: "
        "scalars of each step, a row for each sample, diagnoses. Or copy a log to Parquet files, a file for each "
        "event, with all fields. Running the command again exports only new events. Of a log with several runs, every "
        "run is exported, each under its own id.",
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
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Export a log and return the exit status.

    Raises:
        UserError: The log cannot be read, holds no event of this version, or cannot be exported.
    """
    given = parser(prog).parse_args(arguments)
    folder = _folder(given.log, given.to, given.output)
    problems = ProblemPrinter()
    logs = selected([given.log], given.run, problems.say, every=True, needs_known=given.to != PARQUET)
    lines = (line for log in logs for line, is_current in marked_lines(log, problems) if is_current)
    try:
        export = _to_parquet if given.to == PARQUET else _to_tracker
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
        try:
            return Path(given).expanduser().absolute()
        except RuntimeError as error:
            raise UserError(f"--output: {given}: {error}. Name a folder without ~") from error
    if target == TRACKIO:
        return None
    path = Path("." if log == "-" else log)
    return (path if path.is_dir() else path.parent) / "exported" / target


def _run_id(line: Any) -> str:
    run_id = line.record.get("run_id", _GOLDEN)
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise UserError(f"{line.where}: run_id: expected letters, digits, '.', '_' and '-', got {run_id!r}")
    return run_id


def _to_parquet(lines: Iterator[LogLine], target: str, folder: Path | None) -> Mapping[str, int]:
    """Export lines to Parquet files, in a folder for each run.

    Returns:
        Number of exported events of each run.
    """
    from higgs_audio_trainer.logs.parquet import ParquetFiles

    assert folder is not None
    counts: Counter[str] = Counter()
    with ParquetFiles(folder) as files:
        for line in lines:
            run_id = _run_id(line)
            _pass_on(partial(files.add, run_id), line, line, target)
            counts[run_id] += 1
    return counts


def _to_tracker(lines: Iterator[LogLine], target: str, folder: Path | None) -> Mapping[str, int]:
    """Export new lines to a tracker. Each rank of a run is a run of its own in the tracker.

    Returns:
        Number of exported events of each run.
    """
    from sinks import SinkError

    exports: dict[str, _TrackerExport] = {}
    try:
        for line in lines:
            run_id = _run_id(line)
            if run_id not in exports:
                exports[run_id] = _TrackerExport(target, folder, run_id)
            exports[run_id].add(line)
        for export in exports.values():
            export.close()
    except SinkError as error:
        raise UserError(str(error)) from error
    return {run_id: export.count for run_id, export in exports.items()}


class _TrackerExport:
    """Export of a run to a tracker.

    Args:
        target: Name of the tracker.
        folder: Folder of the tracker's data; None for trackio's own store.
        run_id: Id of the run.

    Attributes:
        count: Number of exported events.

    Raises:
        SinkError: The tracker cannot be opened.
        UserError: An earlier export was interrupted.
    """

    def __init__(self, target: str, folder: Path | None, run_id: str) -> None:
        from importlib import import_module

        self._target = target
        self._run_id = run_id
        options = {} if folder is None else {"dir": str(folder.absolute())}
        self._open = partial(import_module(f"sinks.trackers.{target}").opener, **options)
        # trackio stores each event once, by id, and needs no file of progress.
        is_once = folder is None or target == TRACKIO
        self._progress = _Progress(None if is_once or folder is None else folder / ".exported" / f"{run_id}.json")
        self._ranks: dict[int, Any] = {}
        self.count = 0
        self._opener(0, 0)  # fails before the export is marked as unfinished

    def _opener(self, rank: int, attempt: int) -> Any:
        from sinks import SinkContext

        return self._open(SinkContext(".", self._run_id, rank, attempt))

    def add(self, line: LogLine) -> None:
        """Export a line if the tracker shows the event and the line was not exported yet."""
        from sinks.trackers.rows import admitted
        from sinks.trackers.tracker import TrackerSink

        is_known = line.event is not None and not is_newer(line.record)
        record = admitted(line.record) if is_known else None
        if record is None or not self._progress.is_new(line):
            return
        rank = record["rank"]
        if rank not in self._ranks:
            self._ranks[rank] = TrackerSink(self._opener(rank, record["attempt"]))
        self._progress.begin()
        _pass_on(self._ranks[rank], record, line, self._target)
        self.count += 1

    def close(self) -> None:
        """Finish the export."""
        for sink in self._ranks.values():
            sink.close()
        self._progress.finish()


def _pass_on(take: Callable[[Any], None], item: Any, line: Any, target: str) -> None:
    try:
        take(item)
    except OSError:
        raise  # names the file
    except Exception as error:
        raise UserError(
            f"{target}: expected no error for {line.where}, got {type(error).__name__}: {error}. "
            "All lines before were exported"
        ) from error


class _Progress:
    """Last exported `seq` of each rank and attempt of a run, kept in a file beside the exported data.

    The file is empty while an export runs.

    Args:
        path: Path of the file, or None for a tracker with its own check for repeated events.

    Raises:
        UserError: An earlier export was interrupted, or the file is damaged.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._begun = False
        text = path.read_bytes() if path is not None and path.is_file() else b"{}"
        self._last = _last_numbers(path, text) if text else {}
        if not text:
            raise UserError(
                f"{path}: expected a complete export, got an interrupted export, whose events would be exported "
                "twice. Remove its run and this file, or export to another place with -o"
            )

    def is_new(self, line: Any) -> bool:
        """Return whether a line was not exported yet, and record the line as exported.

        Raises:
            UserError: The line lacks a field of the trackers' sort key.
        """
        record = line.record
        if not all(type(record.get(name)) is kind for name, kind in _POSITION.items()):
            raise UserError(
                f"{line.where}: expected a log of a run, with {', '.join(_POSITION)} in each line, got a golden "
                f"or another log. --to {PARQUET} accepts goldens"
            )
        stream = f"rank{record['rank']:05d}-attempt{record['attempt']:03d}"
        if self._path is not None and record["seq"] <= self._last.get(stream, -1):
            return False
        self._last[stream] = record["seq"]
        return True

    def begin(self) -> None:
        """Mark the export as unfinished, with an empty file."""
        if self._path is not None and not self._begun:
            self._begun = True
            make_folder(self._path.parent)
            self._path.write_text("", encoding="utf-8")

    def finish(self) -> None:
        """Write the last exported `seq` of each rank and attempt."""
        if self._path is not None and self._begun:
            with atomic_file(self._path) as file:
                file.write(json.dumps(self._last).encode() + b"\n")


def _last_numbers(path: Path | None, text: bytes) -> dict[str, int]:
    """Parse the last exported `seq` of each rank and attempt.

    Raises:
        UserError: The text is no JSON object of integers.
    """
    try:
        last = json.loads(text)
    except ValueError as error:  # no JSON, or no UTF-8
        last, got = None, f"{len(text):,} bytes that are not JSON ({error})"
    else:
        got = f"{last!r:.80}"
    if isinstance(last, dict) and all(type(seq) is int for seq in last.values()):
        return last
    raise UserError(
        f"{path}: expected the last exported seq of each rank and attempt, got {got}. Remove its run and this file, or "
        "export to another place with -o"
    )
