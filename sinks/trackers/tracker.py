"""The shared parts of all trackers: interface, sink, and factory of the sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from sinks.option_folder import option_folder
from sinks.protocol import Record, Sink, SinkContext, SinkError, SinkFactory
from sinks.queued import Queued
from sinks.terminal.escape import printable
from sinks.trackers.rows import Row, Scalars, admitted, is_alert, probe, row, scalars
from sinks.wav_file import read_wav

PROJECT = "higgs-audio-trainer"
_LONGEST_SOUND = 10_000_000  # bytes, over three minutes


class Moment(NamedTuple):
    """Step, time and key of a record.

    Attributes:
        step: Optimizer step; for a record without a step, the step of the previous record.
        ts: Time as RFC 3339 in UTC.
        key: Unique name of the record in the run.

    Example:
        >>> Moment(20, "2026-01-02T03:04:05.500000Z", "a-run-0-0-7").seconds
        1767323045.5
    """

    step: int
    ts: str
    key: str

    @property
    def seconds(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return datetime.fromisoformat(self.ts).timestamp()


class Speech(NamedTuple):
    """Sound of generated speech.

    Attributes:
        name: Name of the sound, the same at each step.
        text: Text that the model spoke.
        wav: Bytes of a WAV file.
    """

    name: str
    text: str
    wav: bytes

    @contextmanager
    def file(self, at: Moment) -> Iterator[Path]:
        """Write the sound to a temporary file for a library that takes files. The name of the file is unique."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"step_{at.step:08d}-{at.key}.wav"
            path.write_bytes(self.wav)
            yield path


class Tracker(Protocol):
    """A run in a tracker. Each method raises if the tracker does not store the data."""

    def start(self, at: Moment, record: Record) -> None:
        """Store the settings of an attempt.

        Args:
            at: Moment of the record.
            record: A `run_start`.
        """

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Store scalars by name."""

    def log_sample(self, at: Moment, row: Row) -> None:
        """Store a row of the table of samples."""

    def log_speech(self, at: Moment, values: Scalars, speech: Speech | None) -> None:
        """Store scalars of generated speech by name, and its sound, None without a sound."""

    def alert(self, at: Moment, record: Record) -> None:
        """Store a warning or an error for a person."""

    def close(self) -> None:
        """End the run."""


Open = Callable[[], Tracker]


class TrackerSink:
    """Sink that stores records in a tracker. The first record opens the tracker.

    Args:
        opened: Opens the tracker. Called again for the next record if opening raised.
        folder: Output directory of the run, with the sounds. None if the directory is unknown.
        say: Receives a message about the first sound that cannot be read. The numbers of such speech are stored.
    """

    def __init__(
        self, opened: Open, folder: Path | None = None, say: Callable[[str], None] = lambda _text: None
    ) -> None:
        self._opened = opened
        self._folder = folder
        self._say: Callable[[str], None] | None = say
        self._tracker: Tracker | None = None
        self._step = 0

    def __call__(self, record: Record) -> None:
        """Store a record.

        Args:
            record: Record from `rows.admitted`.

        Raises:
            Exception: Any exception of the tracker.
        """
        if self._tracker is None:
            self._tracker = self._opened()
        at = Moment(record.get("step", self._step), record["ts"], _key(record))
        self._step = max(self._step, at.step)
        if record["event"] == "run_start":
            self._tracker.start(at, record)
        elif record["event"] == "prediction_sample":
            self._tracker.log_sample(at, row(record))
        elif record["event"] == "generation_sample":
            self._tracker.log_speech(at, scalars(record), self._speech(record))
        elif values := scalars(record):
            self._tracker.log_scalars(at, values)
        if is_alert(record):
            self._tracker.alert(at, record)

    def _speech(self, record: Record) -> Speech | None:
        """Return the sound of a record. None without a sound, or if the sound cannot be read."""
        link = record.get("audio")
        if not isinstance(link, str):
            return None
        try:
            wav = read_wav(self._folder, link, longest=_LONGEST_SOUND)
        except (OSError, ValueError) as error:
            if self._say is not None:
                say, self._say = self._say, None
                reason = getattr(error, "strerror", None) or str(error)
                say(f"{printable(link)}: {reason}. Trackers get the numbers of such speech without the sound")
            return None
        return Speech(f"{probe(record)}/audio", str(record.get("text")), wav)

    def close(self) -> None:
        """End the tracker's run."""
        if self._tracker is not None:
            self._tracker.close()


def _key(record: Record) -> str:
    return f"{record['run_id']}-{record['rank']}-{record['attempt']}-{record['seq']}"


def live(name: str, opener: Callable[..., Open]) -> SinkFactory:
    """Return the factory of a sink that stores records in a tracker from a thread.

    Args:
        name: Name of the tracker.
        opener: Takes a context and options, finds the library, and returns the function that opens the tracker.
    """

    @wraps(opener)  # keeps the names of the options
    def factory(context: SinkContext, **options: str) -> Sink:
        opened = opener(context, **options)
        sink = TrackerSink(opened, Path(context.output_dir), context.say)
        return Queued(sink, name=name, say=context.say, admit=admitted)

    return factory


def library(module: str, extra: str) -> Any:
    """Return a module of the library of a tracker.

    Args:
        module: Name of the module.
        extra: Name of the extra of higgs-audio-trainer that installs the library.

    Raises:
        SinkError: The library is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SinkError(
            f"{extra}: expected its library, got {error}. Run: pip install 'higgs-audio-trainer[{extra}]'"
        ) from error


def folder_of(context: SinkContext, given: str | None, name: str) -> Path:
    """Return the folder of a tracker.

    Args:
        context: Facts about the run.
        given: Value of the option `dir`, with `~` for the home folder; None for the default.
        name: Name of the sink, and of the default folder in the output directory.

    Raises:
        SinkError: The home folder is unknown.

    Example:
        >>> str(folder_of(SinkContext("out", "a-run", 0, 0), None, "wandb"))
        'out/wandb'
    """
    return Path(context.output_dir) / name if given is None else option_folder(given, name)


def run_name(context: SinkContext) -> str:
    """Return the name of the run of a rank in a tracker. All attempts share the run.

    Example:
        >>> run_name(SinkContext("out", "a-run", rank=2, attempt=1))
        'a-run-rank00002'
    """
    return context.run_id if context.rank == 0 else f"{context.run_id}-rank{context.rank:05d}"
