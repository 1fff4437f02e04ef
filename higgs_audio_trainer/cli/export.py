"""`export LOG --to NAME`: a log brought to an experiment tracker, or into Parquet files, after the fact."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Any

from higgs_audio_trainer.cli.faults import Faults
from higgs_audio_trainer.cli.parser import ArgumentParser
from higgs_audio_trainer.errors import UserError

PARQUET, TRACKIO = "parquet", "trackio"
TARGETS = (TRACKIO, "tensorboard", "wandb", "mlflow", PARQUET)
_LOOK = {
    TRACKIO: "trackio show --project {project}",
    "tensorboard": "tensorboard --logdir {where}",
    "wandb": "wandb sync {where}/wandb/offline-run-*",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{where}/mlflow.db",
    PARQUET: "duckdb -c \"SELECT step, loss FROM '{where}/*/train_step.parquet'\"",
}
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # it becomes the name of a folder
_GOLDEN = "golden"
_PLACE = {"run_id": str, "attempt": int, "rank": int, "seq": int, "ts": str}  # by which a tracker orders what it has


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Bring a log to an experiment tracker as its sink would have done: scalars of each step, a row of "
        "each sample, alarms. Or into Parquet files, one of each event, with all its fields. To export a log again "
        "adds what came since, and nothing twice.",
        epilog=f"example: {prog} my-run --to tensorboard",
    )
    made.add_argument("log", metavar="FILE|DIR", help="a run's output directory, a log file, - for stdin")
    made.add_argument("--to", choices=TARGETS, required=True, help="what to export to")
    made.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="where to (default: trackio's own store; for all others exported/NAME beside the log)",
    )
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Export a log."""
    given = parser(prog).parse_args(arguments)
    from higgs_audio_trainer.logs.reader import read_lines

    where = _where(given.log, given.to, given.output)
    faults = Faults()
    lines = read_lines(given.log, on_problem=faults)
    first = next(lines, None)
    if first is None:
        raise UserError(f"{given.log}: expected events, got none. Nothing was exported")
    run_id = _run_id(first)
    try:
        count = (_to_parquet if given.to == PARQUET else _to_tracker)(chain([first], lines), given.to, where, run_id)
    except OSError as error:
        raise UserError(
            f"{where}: expected a place to export to, got: {error.strerror or error}. Name another with -o"
        ) from error
    faults.close()
    print(_said(given.to, where, run_id, count))
    return 0


def _said(target: str, where: Path | None, run_id: str, count: int) -> str:
    from sinks.trackers.tracker import PROJECT

    events = {0: "nothing new", 1: "1 event"}.get(count, f"{count:,} events")
    once = ", each kept once" if target == TRACKIO else ""
    store = f"TRACKIO_DIR={quote(str(where))} " if target == TRACKIO and where else ""
    look = store + _LOOK[target].format(where=quote(str(where)), project=PROJECT)
    return f"run {run_id}: {events} exported{once}. To look at it: {look}"


def _where(log: str, target: str, given: str | None) -> Path | None:
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


def _to_parquet(lines: Iterator[Any], target: str, where: Path | None, run_id: str) -> int:
    from higgs_audio_trainer.logs.parquet import ParquetFiles

    assert where is not None
    count = 0
    with ParquetFiles(where / run_id) as files:
        for line in lines:
            _passed_on(files.add, line, line, target)
            count += 1
    return count


def _to_tracker(lines: Iterator[Any], target: str, where: Path | None, run_id: str) -> int:
    """Give a tracker what it was not given before; each rank has a run of its own there."""
    from importlib import import_module

    from sinks import SinkContext, SinkError
    from sinks.trackers.rows import admitted
    from sinks.trackers.tracker import TrackerSink

    opener = import_module(f"sinks.trackers.{target}").opener
    options = {} if where is None else {"dir": str(where)}
    # trackio keeps what it has by its id once.
    done = _Done(None if where is None or target == TRACKIO else where / ".exported" / f"{run_id}.json")
    ranks: dict[int, TrackerSink] = {}
    count = 0
    try:
        opener(SinkContext(".", run_id, 0, 0), **options)  # before anything is said to be unfinished
        for line in lines:
            record = admitted(line.record) if line.event is not None else None
            if record is None or not done.is_new(line):
                continue
            rank = record["rank"]
            if rank not in ranks:
                ranks[rank] = TrackerSink(opener(SinkContext(".", run_id, rank, record["attempt"]), **options))
            done.begin()
            _passed_on(ranks[rank], record, line, target)
            count += 1
        for sink in ranks.values():
            sink.close()
    except SinkError as error:
        raise UserError(str(error)) from error
    done.finish()
    return count


def _passed_on(take: Callable[[Any], None], item: Any, line: Any, target: str) -> None:
    try:
        take(item)
    except Exception as error:
        raise UserError(
            f"{target}: expected it to take {line.where}, got {type(error).__name__}: {error}. "
            "What was exported before it is there"
        ) from error


class _Done:
    """What a place has of a run: the last `seq` of each rank and attempt, in a file beside it.

    Args:
        path: of the file; None: the place itself knows.

    Raises:
        UserError: an export was interrupted there.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._begun = False
        text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else "{}"
        self._last: dict[str, int] = json.loads(text) if text else {}
        if not text:
            raise UserError(
                f"{path}: expected an export that came to its end, got one that was interrupted: to go on would write "
                "twice what it wrote. Remove its run and this file, or export to another place with -o"
            )

    def is_new(self, line: Any) -> bool:
        """Tell whether a line is not there yet, and note it.

        Raises:
            UserError: it says not whose it is.
        """
        record = line.record
        if not all(type(record.get(name)) is kind for name, kind in _PLACE.items()):
            raise UserError(
                f"{line.where}: expected a log of a run, with {', '.join(_PLACE)} in each line, got a golden "
                f"or another. --to {PARQUET} takes it"
            )
        stream = f"rank{record['rank']:05d}-attempt{record['attempt']:03d}"
        if self._path is not None and record["seq"] <= self._last.get(stream, -1):
            return False
        self._last[stream] = record["seq"]
        return True

    def begin(self) -> None:
        """Note that there is more from now on than is noted."""
        if self._path is not None and not self._begun:
            self._begun = True
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("", encoding="utf-8")

    def finish(self) -> None:
        """Note what is there."""
        if self._path is not None and self._begun:
            written = self._path.with_suffix(".new")
            written.write_text(json.dumps(self._last) + "\n", encoding="utf-8")
            written.replace(self._path)
