"""Command `export LOG --to NAME`. Copies a log to an experiment tracker or to Parquet files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Any

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.errors import UserError
from sinks.terminal.words import count_of

PARQUET, TRACKIO = "parquet", "trackio"
TARGETS = (TRACKIO, "tensorboard", "wandb", "mlflow", PARQUET)
#: Commands to view exported data, by target.
_VIEWERS = {
    TRACKIO: "trackio show --project {project}",
    "tensorboard": "tensorboard --logdir {where}",
    "wandb": "wandb sync {where}/wandb/offline-run-*",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{where}/mlflow.db",
    PARQUET: "duckdb -c \"SELECT step, loss FROM '{where}/*/train_step.parquet'\"",
}
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # the run id becomes the name of a folder
_GOLDEN = "golden"
_POSITION = {"run_id": str, "attempt": int, "rank": int, "seq": int, "ts": str}  # sort key of trackers


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Copy a log to an experiment tracker. The tracker gets the same data as from the live sink: "
        "scalars of each step, a row for each sample, diagnoses. Or copy a log to Parquet files, a file for each "
        "event, with all fields. Running the command again exports only new events.",
        epilog=f"example: {prog} my-run --to tensorboard",
    )
    made.add_argument("log", metavar="FILE|DIR", help="output directory of a run, a log file, - for stdin")
    made.add_argument("--to", choices=TARGETS, required=True, help="tracker or file format")
    made.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="folder to write (default: trackio's own store; otherwise exported/NAME beside the log)",
    )
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Export a log and return the exit status."""
    given = parser(prog).parse_args(arguments)
    from higgs_audio_trainer.logs.reader import read_lines

    folder = _folder(given.log, given.to, given.output)
    problems = ProblemPrinter()
    lines = read_lines(given.log, on_problem=problems)
    first = next(lines, None)
    if first is None:
        raise UserError(f"{given.log}: expected events, got none. Nothing was exported")
    run_id = _run_id(first)
    try:
        export = _to_parquet if given.to == PARQUET else _to_tracker
        count = export(chain([first], lines), given.to, folder, run_id)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}. Name another folder with -o") from error
    problems.close()
    print(_summary(given.to, folder, run_id, count))
    return 0


def _summary(target: str, folder: Path | None, run_id: str, count: int) -> str:
    """Return the result of an export and the command to view the data, in one line.

    Example:
        >>> _summary("tensorboard", Path("exported/tensorboard"), "run", 0)
        'run run: nothing new exported. To view: tensorboard --logdir exported/tensorboard'
    """
    from sinks.trackers.tracker import PROJECT

    events = count_of(count, "event") if count else "nothing new"
    once = ", each stored once" if target == TRACKIO else ""
    store = f"TRACKIO_DIR={quote(str(folder))} " if target == TRACKIO and folder else ""
    viewer = store + _VIEWERS[target].format(where=quote(str(folder)), project=PROJECT)
    return f"run {run_id}: {events} exported{once}. To view: {viewer}"


def _folder(log: str, target: str, given: str | None) -> Path | None:
    """Return the folder to export to, by default in the log's folder. None stands for trackio's own store.

    Example:
        >>> _folder("my-run/log.jsonl", "parquet", None).as_posix()
        'my-run/exported/parquet'
    """
    if given is not None:
        return Path(given).expanduser().absolute()
    if target == TRACKIO:
        return None
    path = Path("." if log == "-" else log)
    return (path if path.is_dir() else path.parent) / "exported" / target


def _run_id(line: Any) -> str:
    run_id = line.record.get("run_id", _GOLDEN)
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise UserError(f"{line.where}: run_id: expected letters, digits, '.', '_' and '-', got {run_id!r}")
    return run_id


def _to_parquet(lines: Iterator[Any], target: str, folder: Path | None, run_id: str) -> int:
    from higgs_audio_trainer.logs.parquet import ParquetFiles

    assert folder is not None
    count = 0
    with ParquetFiles(folder / run_id) as files:
        for line in lines:
            _pass_on(files.add, line, line, target)
            count += 1
    return count


def _to_tracker(lines: Iterator[Any], target: str, folder: Path | None, run_id: str) -> int:
    """Export new lines to a tracker. Each rank is a run of its own in the tracker.

    Returns:
        Number of exported events.
    """
    from importlib import import_module

    from sinks import SinkContext, SinkError
    from sinks.trackers.rows import admitted
    from sinks.trackers.tracker import TrackerSink

    opener = import_module(f"sinks.trackers.{target}").opener
    options = {} if folder is None else {"dir": str(folder)}
    # trackio stores each event once, by id, and needs no file of progress.
    progress = _Progress(None if folder is None or target == TRACKIO else folder / ".exported" / f"{run_id}.json")
    ranks: dict[int, TrackerSink] = {}
    count = 0
    try:
        opener(SinkContext(".", run_id, 0, 0), **options)  # fails before the export is marked as unfinished
        for line in lines:
            record = admitted(line.record) if line.event is not None else None
            if record is None or not progress.is_new(line):
                continue
            rank = record["rank"]
            if rank not in ranks:
                ranks[rank] = TrackerSink(opener(SinkContext(".", run_id, rank, record["attempt"]), **options))
            progress.begin()
            _pass_on(ranks[rank], record, line, target)
            count += 1
        for sink in ranks.values():
            sink.close()
    except SinkError as error:
        raise UserError(str(error)) from error
    progress.finish()
    return count


def _pass_on(take: Callable[[Any], None], item: Any, line: Any, target: str) -> None:
    try:
        take(item)
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
        UserError: An earlier export was interrupted.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._begun = False
        text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else "{}"
        self._last: dict[str, int] = json.loads(text) if text else {}
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
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("", encoding="utf-8")

    def finish(self) -> None:
        """Write the last exported `seq` of each rank and attempt."""
        if self._path is not None and self._begun:
            with atomic_file(self._path) as file:
                file.write(json.dumps(self._last).encode() + b"\n")
