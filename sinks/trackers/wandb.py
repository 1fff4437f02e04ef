"""Weights & Biases: an offline run, to be sent by `wandb sync`, or an online one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sinks.protocol import Record, SinkContext, SinkError
from sinks.trackers import rows
from sinks.trackers.rows import COLUMNS, Row, Scalars
from sinks.trackers.tracker import PROJECT, Moment, Open, folder_of, library, live, run_name

_MODES = ("offline", "online")
_LEVELS = {"warning": "WARN", "error": "ERROR"}


class Wandb:
    """Writes a run of its own, beside one that the training may have.

    Samples are tables of one row under one name. A table that is logged again with more rows would be frozen or written
    over as a whole; a query over the run's history puts tables of one name together.

    Args:
        folder: where the run's folder is made; is made.
        run: id and name of the run.
        project: name of the project.
        mode: `offline` or `online`.
    """

    def __init__(self, folder: Path, run: str, project: str, mode: str) -> None:
        self._wandb = library("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=project,
            id=run,
            name=run,
            dir=str(folder),
            mode=mode,
            resume="allow" if mode == "online" else None,  # offline runs of one id are put together by `wandb sync`
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


def opener(
    context: SinkContext,
    *,
    project: str = PROJECT,
    mode: str = "offline",
    dir: str | None = None,  # noqa: A002 - the option's name on the command line
) -> Open:
    """Find the library.

    Args:
        context: the run.
        project: name of the project.
        mode: `offline` or `online`.
        dir: folder for the run's files, `OUTPUT_DIR/wandb` if not given.

    Raises:
        SinkError: the library is not installed, or the mode is none.
    """
    if mode not in _MODES:
        raise SinkError(f"--sinks: wandb: mode: expected offline or online, got {mode!r}")
    library("wandb", "wandb")
    return partial(Wandb, folder_of(context, dir, "wandb"), run_name(context), project, mode)


factory = live("wandb", opener)
