"""Weights & Biases: an offline run for `wandb sync`.

There is no online run. Without a network the library delays the end of the process for minutes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sinks.protocol import Record, SinkContext
from sinks.trackers import rows
from sinks.trackers.rows import COLUMNS, Row, Scalars
from sinks.trackers.tracker import PROJECT, Moment, Open, Speech, folder_of, library, live, run_name

_LEVELS = {"warning": "WARN", "error": "ERROR"}


class Wandb:
    """An additional run, beside a possible run of the training.

    Each sample is a table of a single row, and all tables have the same name. W&B would freeze or rewrite a growing
    table. A query over the history of the run joins the tables of a name.

    Args:
        folder: Folder for the folder of the run. Both are created.
        run: Id and name of the run.
        project: Name of the project.
    """

    def __init__(self, folder: Path, run: str, project: str) -> None:
        self._wandb = library("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=project,
            id=run,
            name=run,
            dir=str(folder),
            mode="offline",  # `wandb sync` joins the attempts, which share one id
            reinit="create_new",
            settings=self._wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        # W&B's own step cannot decrease, and a resumed attempt repeats steps.
        self._run.define_metric("*", step_metric="step")

    def start(self, _at: Moment, record: Record) -> None:
        """Write the settings. The settings of the newest attempt replace earlier ones."""
        self._run.config.update(dict(record["config"]), allow_val_change=True)

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Write the scalars of a step."""
        self._run.log({"step": at.step, **values})

    def log_sample(self, at: Moment, row: Row) -> None:
        """Write a sample as a table of a single row."""
        table = self._wandb.Table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS]], allow_mixed_types=True)
        self._run.log({"step": at.step, "prediction_samples": table})

    def log_speech(self, at: Moment, values: Scalars, speech: Speech | None) -> None:
        """Write the scalars and the sound of generated speech. The library copies the sound into the run's folder."""
        if speech is None:
            self.log_scalars(at, values)
            return
        with speech.file(at) as path:
            audio = self._wandb.Audio(str(path), caption=speech.text)
            self._run.log({"step": at.step, **values, speech.name: audio})

    def alert(self, _at: Moment, record: Record) -> None:
        """Write a warning or an error as an alert."""
        level = self._wandb.AlertLevel[_LEVELS[record["level"]]]
        self._run.alert(rows.title(record), rows.text(record), level=level, wait_duration=0)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def opener(context: SinkContext, *, project: str = PROJECT, dir: str | None = None) -> Open:  # noqa: A002 - option name
    """Return the function that opens the run, after a check for the library.

    Args:
        context: Facts about the run.
        project: Name of the project.
        dir: Folder of the files of the run. Defaults to `OUTPUT_DIR/wandb`.

    Raises:
        SinkError: The library is not installed.
    """
    library("wandb", "wandb")
    return partial(Wandb, folder_of(context, dir, "wandb"), run_name(context), project)


factory = live("wandb", opener)
