"""What every tracker has in common: what it is asked to do, when it is opened, and what it is given of a record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sinks.protocol import Factory, Record, Sink, SinkContext, SinkError
from sinks.queued import Queued
from sinks.trackers.rows import Row, Scalars, admitted, is_alarm, row, scalars

PROJECT = "higgs-audio-trainer"


class Moment(NamedTuple):
    """When a record was made, and which one it is.

    Attributes:
        step: optimizer step; of a record without one, that of the record before.
        ts: RFC 3339, UTC.
        key: tells the record from all others of its run.
    """

    step: int
    ts: str
    key: str

    @property
    def seconds(self) -> float:
        """Seconds since 1970."""
        return datetime.fromisoformat(self.ts).timestamp()


class Tracker(Protocol):
    """A run in a tracker. Each method raises where the tracker does not take what it is given."""

    def start(self, at: Moment, record: Record) -> None:
        """Take the `run_start` of an attempt."""

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Take figures by name."""

    def log_sample(self, at: Moment, row: Row) -> None:
        """Take one more row of the table of samples."""

    def alert(self, at: Moment, record: Record) -> None:
        """Take what a person should look at."""

    def close(self) -> None:
        """End the run."""


Open = Callable[[], Tracker]


class TrackerSink:
    """Gives a tracker what it shows of each record. The tracker is opened by the first one.

    Args:
        opened: opens the tracker; called again by the next record where it raised.
    """

    def __init__(self, opened: Open) -> None:
        self._opened = opened
        self._tracker: Tracker | None = None
        self._step = 0

    def __call__(self, record: Record) -> None:
        """Take a record that `rows.admitted` let through.

        Raises:
            Exception: whatever the tracker raises.
        """
        if self._tracker is None:
            self._tracker = self._opened()
        self._step = record.get("step", self._step)
        at = Moment(self._step, record["ts"], _key(record))
        if record["event"] == "run_start":
            self._tracker.start(at, record)
        elif record["event"] == "prediction_sample":
            self._tracker.log_sample(at, row(record))
        elif values := scalars(record):
            self._tracker.log_scalars(at, values)
        if is_alarm(record):
            self._tracker.alert(at, record)

    def close(self) -> None:
        """End the tracker's run."""
        if self._tracker is not None:
            self._tracker.close()


def _key(record: Record) -> str:
    return f"{record['run_id']}-{record['rank']}-{record['attempt']}-{record['seq']}"


def live(name: str, opener: Callable[..., Open]) -> Factory:
    """Make the factory of a tracker's sink, which never makes the training wait.

    Args:
        name: of the tracker.
        opener: takes a context and options; finds the library, and returns what opens the tracker.
    """

    @wraps(opener)  # its options are the factory's
    def factory(context: SinkContext, **options: str) -> Sink:
        opened = opener(context, **options)
        return Queued(TrackerSink(opened), name=name, say=context.say, admit=admitted)

    return factory


def library(module: str, extra: str) -> Any:
    """Import a module of a tracker's library.

    Raises:
        SinkError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SinkError(
            f"{extra}: expected its library, got {error}. pip install 'higgs-audio-trainer[{extra}]'"
        ) from error


def folder_of(context: SinkContext, given: str | None, name: str) -> Path:
    """Return the folder that an option names, or a tracker's own in the output directory."""
    return Path(context.output_dir) / name if given is None else Path(given).expanduser()


def run_name(context: SinkContext) -> str:
    """Name a rank's run in a tracker; all attempts go on in it."""
    return context.run_id if context.rank == 0 else f"{context.run_id}-rank{context.rank:05d}"
