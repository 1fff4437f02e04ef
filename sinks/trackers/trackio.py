"""trackio: a local store in SQLite.

Written through its storage, and not through its `Run`: that keeps records half a second, writes them in a thread, and
what it cannot write it drops with a warning. The storage raises, and takes a record that it has by its id once.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from sinks.protocol import Record, SinkContext, SinkError
from sinks.trackers import rows
from sinks.trackers.rows import Row, Scalars
from sinks.trackers.tracker import PROJECT, Moment, Open, library, live, run_name

_FOLDER = "TRACKIO_DIR"
_LEVELS = {"warning": "warn", "error": "error"}


class Trackio:
    """Writes to a project that `trackio show` reads.

    Args:
        project: name of the project.
        run: name of the run.
    """

    def __init__(self, project: str, run: str) -> None:
        self._storage = library("trackio.sqlite_storage", "trackio").SQLiteStorage
        self._whose = {"project": project, "run": run, "run_id": run}

    def start(self, at: Moment, record: Record) -> None:
        """Write the settings: the newest attempt's are the run's."""
        self._log(at, {"train/attempt": record["attempt"]}, config=dict(record["config"]))

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Write the figures of a step."""
        self._log(at, dict(values))

    def log_sample(self, at: Moment, row: Row) -> None:
        """Write a sample as a row of a table, one for each place in the batch."""
        self._log(at, {rows.place(row): {"_type": "trackio.table", "_value": [row]}})

    def alert(self, at: Moment, record: Record) -> None:
        """Write an alarm as an alert."""
        self._storage.bulk_alert(
            **self._whose,
            titles=[rows.title(record)],
            texts=[rows.text(record)],
            levels=[_LEVELS[record["level"]]],
            steps=[at.step],
            timestamps=[at.ts],
            alert_ids=[at.key],
        )

    def close(self) -> None:
        """Do nothing: each record is in the store."""

    def _log(self, at: Moment, metrics: dict[str, Any], config: dict[str, Any] | None = None) -> None:
        self._storage.bulk_log(
            **self._whose,
            metrics_list=[metrics],
            steps=[at.step],
            timestamps=[at.ts],
            log_ids=[at.key],
            config=config,
        )


def opener(context: SinkContext, *, project: str = PROJECT, dir: str | None = None) -> Open:  # noqa: A002 - its name
    """Find the library and its store.

    Args:
        context: the run.
        project: name of the project.
        dir: folder of the store; trackio's own if not given, which `trackio show` opens.

    Raises:
        SinkError: the library is not installed, or has another store open.
    """
    if dir is not None:
        _choose(Path(dir).expanduser().absolute())
    library("trackio.sqlite_storage", "trackio")
    return partial(Trackio, project, run_name(context))


def _choose(folder: Path) -> None:
    """Import the library with another store than its own: it reads where that is when it is imported."""
    before = os.environ.get(_FOLDER)
    os.environ[_FOLDER] = str(folder)
    try:
        opened = Path(library("trackio.utils", "trackio").TRACKIO_DIR).absolute()
    finally:
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before
    if opened != folder:
        raise SinkError(
            f"trackio: dir: expected the store that this process has open, {opened}, got {folder}. "
            f"Set {_FOLDER} before the program starts"
        )


factory = live("trackio", opener)
