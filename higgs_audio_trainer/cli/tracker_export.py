"""Export of a run to an experiment tracker, without the events of earlier exports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from higgs_audio_trainer.atomic_file import atomic_file, make_folder
from higgs_audio_trainer.bounds import MAX_SIGNED_INTEGER, MIN_INTEGER
from higgs_audio_trainer.documents import load_json
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.files import output_dir_of
from higgs_audio_trainer.logs.lines import LogLine
from higgs_audio_trainer.logs.run_filter import is_newer

PARQUET, TRACKIO = "parquet", "trackio"
_POSITION = {"run_id": str, "attempt": int, "rank": int, "seq": int, "ts": str}  # sort key of trackers


class TrackerExport:
    """Export of a run to a tracker.

    Args:
        target: Name of the tracker.
        folder: Folder of the tracker's data; None for trackio's own store.
        run_id: Id of the run.
        say: Receives a message about sounds that cannot be read.

    Attributes:
        count: Number of exported events.

    Raises:
        SinkError: The tracker cannot be opened.
        UserError: An earlier export was interrupted.
    """

    def __init__(self, target: str, folder: Path | None, run_id: str, say: Callable[[str], None]) -> None:
        self._target = target
        self._say = say
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
        _check_integers(record, line, self._target)
        rank = record["rank"]
        if rank not in self._ranks:
            opened = self._opener(rank, record["attempt"])
            self._ranks[rank] = TrackerSink(opened, output_dir_of(line.path), self._say)
        self._progress.begin()
        pass_on(self._ranks[rank], record, line, self._target)
        self.count += 1

    def close(self) -> None:
        """Finish the export."""
        for sink in self._ranks.values():
            sink.close()
        self._progress.finish()


def _check_integers(record: Mapping[str, Any], line: LogLine, target: str) -> None:
    """Check that the integers of a record fit the columns of a tracker.

    Raises:
        UserError: An integer is too large.
    """
    for name, value in record.items():
        if type(value) is int and not MIN_INTEGER <= value <= MAX_SIGNED_INTEGER:
            raise UserError(
                f"{target}: {line.where}: $.{name}: expected an integer from {MIN_INTEGER} to {MAX_SIGNED_INTEGER}, "
                f"got {value}. All lines before were exported; --to {PARQUET} keeps such a line as JSON"
            )


def pass_on(take: Callable[[Any], None], item: Any, line: LogLine, target: str) -> None:
    """Export the item of a line.

    Raises:
        OSError: A file cannot be written.
        UserError: The export failed for another reason.
    """
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
        last = load_json(text)
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
