"""trackio: a local store in SQLite.

Records are written by trackio's storage, not by trackio's `Run`. A `Run` buffers records for half a second, writes in a
thread, and drops failed writes with a warning. The storage raises, and stores a record of a known id only once.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from sinks.option_folder import option_folder
from sinks.protocol import Record, SinkContext, SinkError
from sinks.trackers import rows
from sinks.trackers.rows import Row, Scalars
from sinks.trackers.tracker import PROJECT, Moment, Open, Speech, library, live, run_name

_FOLDER = "TRACKIO_DIR"
_LEVELS = {"warning": "warn", "error": "error"}


class Trackio:
    """A run in a project for `trackio show`.

    Args:
        project: Name of the project.
        run: Name of the run.
    """

    def __init__(self, project: str, run: str) -> None:
        self._storage = library("trackio.sqlite_storage", "trackio").SQLiteStorage
        self._media = library("trackio.media.utils", "trackio")
        self._media_dir = library("trackio.utils", "trackio").MEDIA_DIR
        self._ids = {"project": project, "run": run, "run_id": run}

    def start(self, at: Moment, record: Record) -> None:
        """Write the settings. The settings of the newest attempt replace earlier ones."""
        self._log(at, {"train/attempt": record["attempt"]}, config=dict(record["config"]))

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Write the scalars of a step."""
        self._log(at, dict(values))

    def log_sample(self, at: Moment, row: Row) -> None:
        """Write a sample as a row of a table. Each place in the batch has a table."""
        self._log(at, {rows.place(row): {"_type": "trackio.table", "_value": [row]}})

    def log_speech(self, at: Moment, values: Scalars, speech: Speech | None) -> None:
        """Write the scalars and the sound of generated speech. A sound that is exported again is stored once."""
        metrics: dict[str, Any] = dict(values)
        if speech is not None:
            ids = {name: self._ids[name] for name in ("project", "run")}
            path = self._media.get_project_media_path(**ids, step=at.step) / f"{at.key}.wav"
            path.write_bytes(speech.wav)
            stored = path.relative_to(self._media_dir)
            metrics[speech.name] = {"_type": "trackio.audio", "file_path": str(stored), "caption": speech.text}
        self._log(at, metrics)

    def alert(self, at: Moment, record: Record) -> None:
        """Write a warning or an error as an alert."""
        self._storage.bulk_alert(
            **self._ids,
            titles=[rows.title(record)],
            texts=[rows.text(record)],
            levels=[_LEVELS[record["level"]]],
            steps=[at.step],
            timestamps=[at.ts],
            alert_ids=[at.key],
        )

    def close(self) -> None:
        """Do nothing, because the store has each record already."""

    def _log(self, at: Moment, metrics: dict[str, Any], config: dict[str, Any] | None = None) -> None:
        self._storage.bulk_log(
            **self._ids,
            metrics_list=[metrics],
            steps=[at.step],
            timestamps=[at.ts],
            log_ids=[at.key],
            config=config,
        )


def opener(context: SinkContext, *, project: str = PROJECT, dir: str | None = None) -> Open:  # noqa: A002 - option name
    """Return the function that opens the run, after a check for the library and the store.

    Args:
        context: Facts about the run.
        project: Name of the project.
        dir: Folder of the store. Defaults to the folder of `trackio show`.

    Raises:
        SinkError: The library is not installed, or has another store open.
    """
    if dir is not None:
        _choose(option_folder(dir, "trackio").absolute())
    library("trackio.sqlite_storage", "trackio")
    return partial(Trackio, project, run_name(context))


def _choose(folder: Path) -> None:
    """Import the library with another store, because the library reads the path of the store at import.

    Raises:
        SinkError: The library was imported before, with another store.
    """
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
