"""TensorBoard: an event file for each attempt, written without torch and TensorFlow.

The `EventFileWriter` of the library writes in a thread, and failed writes are lost without an error. Here each record
is a single write. A half-written record is truncated, because a reader would stop there.
"""

from __future__ import annotations

import os
import socket
import time
import wave
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from sinks.protocol import Record, SinkContext
from sinks.trackers import rows
from sinks.trackers.rows import Row, Scalars
from sinks.trackers.tracker import Moment, Open, Speech, folder_of, library, live, run_name

_VERSION = "brain.Event:2"
_MODE = 0o600  # as the mode of the log files
_numbers = count()


class TensorBoard:
    """An event file for `tensorboard --logdir`.

    Samples, settings and alerts are texts. TensorBoard keeps ten texts of a tag, so each text has a different tag.

    Args:
        folder: Folder of the run; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._event = library("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summary = library("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
        self._text = library("tensorboard.plugins.text.summary", "tensorboard").text_pb
        self._framed = library("tensorboard.summary.writer.record_writer", "tensorboard").RecordWriter
        folder.mkdir(parents=True, exist_ok=True)
        # Readers take the files of a folder in the order of their names. Whole seconds would leave the order of two
        # files of one second to the host, the process id and a number without leading zeros.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}.{next(_numbers):06d}"
        self._fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        self._size = 0
        self._write(time.time(), file_version=_VERSION)

    def start(self, at: Moment, record: Record) -> None:
        """Write the settings, and a mark that makes TensorBoard discard the repeated steps."""
        resumed = record.get("resumed_from_step")
        if resumed is not None:
            log = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(at.seconds, step=resumed + 1, session_log=log)
        self._write_text(at, f"config/{at.key}", record["config"])

    def log_scalars(self, at: Moment, values: Scalars) -> None:
        """Write the scalars of a step as a record."""
        summary = self._summary(
            value=[self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
        self._write(at.seconds, step=at.step, summary=summary)

    def log_sample(self, at: Moment, row: Row) -> None:
        """Write a sample as a table."""
        self._write_text(at, f"{rows.place(row)}/step_{at.step:08d}", row)

    def log_speech(self, at: Moment, values: Scalars, speech: Speech | None) -> None:
        """Write the scalars and the sound of generated speech as a record."""
        found = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        if speech is not None:
            found.append(self._summary.Value(tag=speech.name, audio=self._audio(speech.wav)))
        self._write(at.seconds, step=at.step, summary=self._summary(value=found))

    def _audio(self, wav: bytes) -> Any:
        with wave.open(BytesIO(wav)) as sound:
            return self._summary.Audio(
                sample_rate=sound.getframerate(),
                num_channels=sound.getnchannels(),
                length_frames=sound.getnframes(),
                encoded_audio_string=wav,
                content_type="audio/wav",
            )

    def alert(self, at: Moment, record: Record) -> None:
        """Write a warning or an error as text, because TensorBoard has no alerts."""
        alert = {"level": record["level"], "step": at.step, rows.title(record): rows.text(record)}
        self._write_text(at, f"alerts/{rows.title(record)}/{at.key}", alert)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write_text(self, at: Moment, tag: str, table: Mapping[str, Any]) -> None:
        lines = ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in table.items())]
        self._write(at.seconds, step=at.step, summary=self._text(tag, "\n".join(lines)))

    def _write(self, seconds: float, **content: Any) -> None:
        framed = BytesIO()
        self._framed(framed).write(self._event.Event(wall_time=seconds, **content).SerializeToString())
        data = memoryview(framed.getvalue())
        size = self._size + len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
            raise
        self._size = size


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", "<br>")


def opener(context: SinkContext, *, dir: str | None = None) -> Open:  # noqa: A002 - name of the option
    """Return the function that opens the event file, after a check for the library.

    Args:
        context: Facts about the run.
        dir: Folder for `tensorboard --logdir`, with a folder for each run. Defaults to `OUTPUT_DIR/tensorboard`.

    Raises:
        SinkError: The library is not installed.
    """
    library("tensorboard.summary.writer.record_writer", "tensorboard")
    return partial(TensorBoard, folder_of(context, dir, "tensorboard") / run_name(context))


factory = live("tensorboard", opener)
