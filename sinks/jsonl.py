"""The JSONL file sink: one record, one line, one write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import orjson

from sinks.protocol import Record, Sink, SinkContext, SinkError

# Appending keeps lines whole beside another writer; a symlink is never followed; a child program inherits nothing.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600  # transcripts are nobody else's business
_CLOSED = -1  # no file has this descriptor, so a late record cannot end in another one's


class JsonlSink:
    """Appends each record to a file as one line of JSON, unbuffered.

    When the call returns, the line has been handed to the operating system: it outlives the process.

    Args:
        path: file to append to; its folder is made.

    Raises:
        SinkError: the file cannot be opened, or is a symbolic link.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, _FLAGS, _MODE)
        except OSError as error:
            got = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise SinkError(
                f"jsonl: expected a file to append to, got {got} at {self.path}. "
                "Choose another folder: --sinks console,jsonl:dir=FOLDER"
            ) from error

    def __call__(self, record: Record) -> None:
        """Append one record.

        Raises:
            TypeError: the record holds something that is not a builtin, such as a tensor.
            OSError: the file cannot be written, or is closed.
        """
        line = memoryview(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        while line:  # a nearly full disk may take a part
            line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        descriptor, self._fd = self._fd, _CLOSED
        if descriptor != _CLOSED:
            os.close(descriptor)


def jsonl_sink(context: SinkContext, *, dir: str | None = None) -> Sink:  # noqa: A002 - the option's name on the command line
    """Make the file sink of one rank and attempt.

    Args:
        context: the run.
        dir: folder of the files, `~` for the home folder; `OUTPUT_DIR/events` if not given.

    Raises:
        SinkError: the file cannot be opened, or is a symbolic link.
    """
    if dir == "":
        raise SinkError("--sinks: jsonl: dir: expected a folder, got nothing")
    folder = Path(context.output_dir) / "events" if dir is None else Path(dir).expanduser()
    path = folder / f"rank{context.rank:05d}-attempt{context.attempt:03d}.jsonl"
    if path.is_file() and path.stat().st_size:
        raise SinkError(
            f"jsonl: expected a file of its own, got {path}, which holds another run's events. "
            "Choose another folder: --sinks console,jsonl:dir=FOLDER"
        )
    return JsonlSink(path)
