"""MLflow: a run in a local store, or on a server.

The local store is a SQLite file and a folder of artifacts. Recent versions of MLflow refuse a store of plain files.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

from sinks.protocol import Record, SinkContext
from sinks.trackers import rows
from sinks.trackers.rows import Row, Scalars
from sinks.trackers.tracker import PROJECT, Moment, Open, Speech, folder_of, library, live, run_name

RUN_ID = "higgs_audio_trainer.run"  # tag by which the next attempt finds the run
_LONGEST_TAG = 5_000


class Mlflow:
    """A run in MLflow, written by MLflow's client. The client does not touch an active run of the training.

    Rows and settings are files of the run. MLflow would read, join and rewrite a table for each row.

    Args:
        folder: Folder of the local store, created if missing; None for a store at `uri`.
        uri: Address of a server.
        run: Name of the run. An existing run of this name is continued.
        project: Name of the experiment.
    """

    def __init__(self, folder: Path | None, uri: str, run: str, project: str) -> None:
        self._mlflow = library("mlflow", "mlflow")
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # no messages about created tables
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder / 'mlflow.db'}"
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        artifacts = None if folder is None else (folder / "artifacts").as_uri()
        found = self._client.get_experiment_by_name(project)
        experiment = self._client.create_experiment(project, artifacts) if found is None else found.experiment_id
        runs = self._client.search_runs([experiment], f"tags.`{RUN_ID}` = '{run}'", max_results=1)
        made = runs[0] if runs else self._client.create_run(experiment, run_name=run, tags={RUN_ID: run})
        self._run = made.info.run_id

    def start(self, _at: Moment, record: Record) -> None:
        """Write the settings as a file, because a parameter cannot change between attempts."""
        self._client.update_run(self._run, status="RUNNING")
        self._client.log_dict(self._run, dict(record["config"]), f"config/attempt{record['attempt']:03d}.json")

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Write the scalars of a step."""
        metric, milliseconds = self._mlflow.entities.Metric, int(at.seconds * 1000)
        metrics = [metric(name, value, milliseconds, at.step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def log_sample(self, at: Moment, row: Row) -> None:
        """Write a row as a file."""
        self._client.log_text(self._run, json.dumps(row), f"{rows.place(row)}/step_{at.step:08d}-{at.key}.json")

    def log_speech(self, at: Moment, values: Scalars, speech: Speech | None) -> None:
        """Write the scalars of generated speech, and the sound as a file."""
        self.log_scalars(at, values)
        if speech is not None:
            with speech.file(at) as path:
                self._client.log_artifact(self._run, str(path), speech.name)

    def alert(self, at: Moment, record: Record) -> None:
        """Write a warning or an error as a tag and a file, because MLflow has no alerts."""
        message = f"step {at.step}: {rows.text(record)}"
        self._client.set_tag(self._run, f"alert.{rows.title(record)}", message[:_LONGEST_TAG])
        self._client.log_text(self._run, message, f"alerts/{rows.title(record)}-step_{at.step:08d}-{at.key}.txt")

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


def opener(
    context: SinkContext,
    *,
    project: str = PROJECT,
    uri: str | None = None,
    dir: str | None = None,  # noqa: A002 - name of the option on the command line
) -> Open:
    """Return the function that opens the run, after a check for the library.

    Args:
        context: Facts about the run.
        project: Name of the experiment.
        uri: Address of a server instead of a local store.
        dir: Folder of the local store. Defaults to `OUTPUT_DIR/mlflow`.

    Raises:
        SinkError: The library is not installed.
    """
    library("mlflow", "mlflow")
    library("sqlalchemy", "mlflow")
    folder = folder_of(context, dir, "mlflow").absolute() if uri is None else None
    return partial(Mlflow, folder, uri or "", run_name(context), project)


factory = live("mlflow", opener)
