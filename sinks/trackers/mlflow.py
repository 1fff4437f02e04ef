"""MLflow: a run in a local store, or on a server.

The store is a SQLite file with a folder of artifacts beside it: MLflow's store of plain files refuses to open in recent
versions.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

from sinks.protocol import Record, SinkContext
from sinks.trackers import rows
from sinks.trackers.rows import Row, Scalars
from sinks.trackers.tracker import PROJECT, Moment, Open, folder_of, library, live, run_name

RUN_ID = "higgs_audio_trainer.run"  # the tag by which the next attempt finds its run
_LONGEST_TAG = 5_000


class Mlflow:
    """Writes a run by MLflow's client, so that a run that the training may have active is left alone.

    Rows and settings are files of the run: its tables are read, joined and written anew at each row.

    Args:
        folder: of the local store; is made. None: `uri` says where the store is.
        uri: address of a server.
        run: name of the run; one that is there under this name is gone on with.
        project: name of the experiment.
    """

    def __init__(self, folder: Path | None, uri: str, run: str, project: str) -> None:
        self._mlflow = library("mlflow", "mlflow")
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tells a person of tables that it makes
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
        """Write the settings as a file: a parameter may not change, and an attempt may."""
        self._client.update_run(self._run, status="RUNNING")
        self._client.log_dict(self._run, dict(record["config"]), f"config/attempt{record['attempt']:03d}.json")

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Write the figures of a step."""
        metric, milliseconds = self._mlflow.entities.Metric, int(at.seconds * 1000)
        metrics = [metric(name, value, milliseconds, at.step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def log_sample(self, at: Moment, row: Row) -> None:
        """Write a row as a file of its own."""
        self._client.log_text(self._run, json.dumps(row), f"{rows.place(row)}/step_{at.step:08d}-{at.key}.json")

    def alert(self, at: Moment, record: Record) -> None:
        """Write an alarm as a tag and a file; MLflow has no alerts."""
        words = f"step {at.step}: {rows.text(record)}"
        self._client.set_tag(self._run, f"alert.{rows.title(record)}", words[:_LONGEST_TAG])
        self._client.log_text(self._run, words, f"alerts/{rows.title(record)}-step_{at.step:08d}-{at.key}.txt")

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


def opener(
    context: SinkContext,
    *,
    project: str = PROJECT,
    uri: str | None = None,
    dir: str | None = None,  # noqa: A002 - the option's name on the command line
) -> Open:
    """Find the library.

    Args:
        context: the run.
        project: name of the experiment.
        uri: address of a server, instead of a local store.
        dir: folder of the local store, `OUTPUT_DIR/mlflow` if not given.

    Raises:
        SinkError: it is not installed.
    """
    library("mlflow", "mlflow")
    library("sqlalchemy", "mlflow")
    folder = folder_of(context, dir, "mlflow").absolute() if uri is None else None
    return partial(Mlflow, folder, uri or "", run_name(context), project)


factory = live("mlflow", opener)
