"""Weights & Biases: an offline run, to be sent by `wandb sync`.

An online run is not offered: without a network, the library keeps a process that ends from ending for minutes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sinks.protocol import Record, SinkContext
from sinks.trackers import rows
from sinks.trackers.rows import COLUMNS, Row, Scalars
from sinks.trackers.tracker import PROJECT, Moment, Open, folder_of, library, live, run_name

_LEVELS = {"warning": "WARN", "error": "ERROR"}


class Wandb:
    """Writes a run of its own, beside one that the training may have.

    Samples are tables of one row under one name. A table that is logged again with more rows would be frozen or written
    over as a whole; a query over the run's history puts tables of one name together.

    Args:
        folder: where the run's folder is made; is made.
        run: id and name of the run.
        project: name of the project.
    """

    def __init__(self, folder: Path, run: str, project: str) -> None:
        self._wandb = library("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=project,
            id=run,
            name=run,
            dir=str(folder),
            mode="offline",  # runs of one id, one of each attempt, are put together by `wandb sync`
            reinit="create_new",
            settings=self._wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        # Not wandb's own step, which may not go back: a resumed attempt makes steps again.
        self._run.define_metric("*", step_metric="step")

    def start(self, _at: Moment, record: Record) -> None:
        """Write the settings: the newest attempt's are the run's."""
        self._run.config.update(dict(record["config"]), allow_val_change=True)

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Write the figures of a step."""
        self._run.log({"step": at.step, **values})

    def log_sample(self, at: Moment, row: Row) -> None:
        """Write a sample as a table of one row."""
        table = self._wandb.Table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS]], allow_mixed_types=True)
        self._run.log({"step": at.step, "prediction_samples": table})

    def alert(self, _at: Moment, record: Record) -> None:
        """Write an alarm as an alert."""
        level = self._wandb.AlertLevel[_LEVELS[record["level"]]]
        self._run.alert(rows.title(record), rows.text(record), level=level, wait_duration=0)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def opener(context: SinkContext, *, project: str = PROJECT, dir: str | None = None) -> Open:  # noqa: A002 - its name
    """Find the library.

    Args:
        context: the run.
        project: name of the project.
        dir: folder for the run's files, `OUTPUT_DIR/wandb` if not given.

    Raises:
        SinkError: it is not installed.
    """
    library("wandb", "wandb")
    return partial(Wandb, folder_of(context, dir, "wandb"), run_name(context), project)


factory = live("wandb", opener)
