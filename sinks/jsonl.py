"""The JSONL file sink. Each record is a line and a single write. Files are appended to and never truncated."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import orjson

from sinks.null import null_sink
from sinks.protocol import Record, Sink, SinkError, print_on_stderr
from sinks.retry import Retry
from sinks.segment import Segment, SegmentFiles
from sinks.shorten import ENVELOPE, encoded

Durability = Literal["none", "checkpoint", "record"]

MAX_LINE_BYTES = 256 * 1024
KEEP_RANGE = "a whole number from 1, and max_bytes beside it"
_SYNCED = frozenset({"checkpoint", "run_end"})  # with durability=checkpoint
_NEVER_DELAYED = _SYNCED | {"sink_recovered"}  # tried at once, even after failures
# After these errors the file takes no more lines or may have lost lines. The log continues in another file.
_LOST_FILE = frozenset({errno.EFBIG, errno.EIO, errno.ESTALE})
_MOST_FRUITLESS = 3  # new files without a written record; a broken disk must not collect more
_SPEAKER = "higgs-audio-trainer: "
_RESERVED_BYTES = 2048  # for a `cap_reached` and a `run_end`


class JsonlSink:
    """Sink that appends each record to a file as a line of JSON, unbuffered.

    When the call returns, the operating system has the line, and the line outlives the process. When the call raises,
    the line is not in the file, or a torn part of the line is. As an exception, a line whose sync failed in two files
    is written and the call raises. If a file is lost, the log continues in another segment beside the file. The first
    line of each segment repeats the line of `run_start`, and readers drop repeated lines.

    One thread at a time may call the sink. The sink does nothing in a forked child and becomes the null sink in a
    pickle, because a file has one writer.

    Args:
        path: File to append to. The folder is created.
        durability: Lines that are forced to the disk. `none`, `checkpoint` (all lines up to each `checkpoint` and
            `run_end`), or each `record`.
        max_bytes: Size of a segment in bytes. A longer record gets a segment for itself. None for no limit.
        keep: Number of segments of this log that stay; None for all.
        max_total_bytes: Size of all segments together in bytes. At this size the sink writes a `cap_reached`, and
            later only `run_end`. None for no limit.
        say: Prints a line for a person.
        clock: Monotonic clock, in seconds.

    Raises:
        SinkError: The file cannot be opened or is not a regular file, or the arguments contradict each other.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sink = JsonlSink(f"{folder}/events/run.jsonl")
        ...     sink({"event": "checkpoint", "v": 1, "step": 20, "path": "checkpoint-20"})
        ...     sink.close()
        ...     print(sink.path.read_text(), end="")
        {"event":"checkpoint","v":1,"step":20,"path":"checkpoint-20"}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "none",
        max_bytes: int | None = None,
        keep: int | None = None,
        max_total_bytes: int | None = None,
        say: Callable[[str], None] = print_on_stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if durability not in get_args(Durability):
            raise option_error("durability", f"one of {', '.join(get_args(Durability))}", durability)
        if keep is not None and (max_bytes is None or keep < 1):
            raise option_error("keep", KEEP_RANGE, keep)
        self._durability, self._max_bytes, self._keep, self._max_total = durability, max_bytes, keep, max_total_bytes
        self._say = say
        self._retry = Retry(clock)
        self._pid = os.getpid()
        self._is_used = False
        self._run_start = b""
        self._preface_owed = False
        self._fruitless = 0
        self._is_capped = self._is_closed = False
        self._files = SegmentFiles(Path(path).absolute())  # independent of later changes of the working directory
        try:
            self._segment = self._files.open_first()
        except OSError as error:
            raise SinkError(
                f"jsonl: {path}: {error.strerror}. Choose another folder: --sinks console,jsonl:dir=FOLDER"
            ) from error
        self._bare_size = self._other_bytes = 0
        self._tidy()

    @property
    def path(self) -> Path:
        """Path of the present segment."""
        return self._segment.path

    def __reduce__(self) -> tuple[Callable[..., Sink], tuple[()]]:
        """Become the null sink in a pickle or a copy."""
        return null_sink, ()

    def __call__(self, record: Record, *, json_line: bytes | None = None) -> None:
        """Append a record.

        Args:
            record: Record of builtins.
            json_line: The record as a line of JSON, if the caller has encoded the record; see `sinks.protocol`.

        Raises:
            TypeError: The record holds an object that is not a builtin, such as a tensor.
            OSError: The record is not in the file, or the sink is closed or full.
        """
        if os.getpid() != self._pid:
            return
        event = record.get("event")
        self._is_used = True
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self.path))
        if self._is_capped and event != "run_end":
            raise self._full_error()
        if self._retry.failures and event not in _NEVER_DELAYED:
            self._retry.refuse_early()
        if json_line is not None and len(json_line) <= MAX_LINE_BYTES:
            line = json_line  # what `encoded` would return, for the record fits
        else:
            line = encoded(record, MAX_LINE_BYTES)
        try:
            self._append(record, line)
        except OSError as error:
            error.filename = str(error.filename or self.path)
            self._retry.failed(error)
            raise
        if self._retry.failures:
            self._retry.worked()
        self._fruitless = 0
        if event == "run_start" and not self._run_start:
            self._run_start = line

    def lock(self) -> bool:
        """Lock the file against the sinks of other runs. Return False if another sink holds the lock."""
        return self._segment.lock()

    def close(self) -> None:
        """Close the file, and remove the file of a run that logged nothing. A second call does nothing."""
        if not self._is_closed and os.getpid() == self._pid:
            self._is_closed = True
            self._retire(self._segment)
            if not self._is_used:
                self._files.remove_empty(self._segment)

    def _append(self, record: Record, line: bytes) -> None:
        loss = self._segment.check()
        if loss or self._retry.failures:
            self._replace_segment(loss)
        if self._max_bytes is not None and self._is_full_for(line, self._max_bytes):
            self._begin()
        event = record.get("event")
        if self._max_total is not None:
            reserve = 0 if event == "run_end" else _RESERVED_BYTES + 2 * len(self._run_start)
            if not self._has_room(len(line) + reserve):
                self._end_at_cap(record)
                raise self._full_error()
        self._put(line)
        if self._durability == "record" or (self._durability == "checkpoint" and event in _SYNCED):
            self._sync(line)

    def _replace_segment(self, loss: str | None) -> None:
        """Reopen the present segment, or begin the next.

        Args:
            loss: Loss of the present segment, as the end of a sentence; None if a write or sync failed.
        """
        number = self._retry.errno
        if loss:
            self._begin(loss)
        elif (self._segment.spoiled or number in _LOST_FILE) and self._fruitless < _MOST_FRUITLESS:
            self._fruitless += 1
            self._begin(f"failed ({os.strerror(number or errno.EIO)})")
        elif number is not None:
            self._segment = self._segment.reopened()

    def _is_full_for(self, line: bytes, max_bytes: int) -> bool:
        size = self._segment.size
        return size > self._bare_size and size + len(line) > max_bytes

    def _begin(self, why: str | None = None) -> None:
        """Begin the next segment.

        Args:
            why: Loss of the present segment, as the end of a sentence; None if the segment is full.
        """
        last, self._segment = self._segment, self._files.create_next()
        self._preface_owed = bool(self._run_start)
        self._bare_size = len(self._run_start)
        self._other_bytes += last.size
        self._retire(last)
        if why:
            self._say(f"{_SPEAKER}{last.path} {why}; the log continues in {self.path}")
        self._tidy()

    def _retire(self, segment: Segment) -> None:
        with suppress(OSError):  # the last line is complete, or was counted as lost
            segment.end_line()
        if self._durability != "none" and not segment.spoiled:
            try:
                segment.sync()
            except OSError as error:
                self._say(f"{_SPEAKER}{segment.path} {_unsynced(error)}")
        segment.close()

    def _tidy(self) -> None:
        """Remove the oldest segments above `keep`. Sum the sizes of the other segments."""
        if self._keep is None and self._max_total is None:
            return
        try:
            segments = [item for item in self._files.segments() if item.path != self.path]
            while self._keep is not None and len(segments) >= self._keep:
                self._files.remove(segments[0].path)
                del segments[0]
            self._other_bytes = sum(item.size for item in segments)
        except OSError as error:  # the present segment is intact
            self._say(f"{_SPEAKER}old segments of {self.path} could not be removed: {error}")

    def _put(self, line: bytes) -> None:
        if self._preface_owed:
            self._segment.write(self._run_start)
            self._preface_owed = False
        self._segment.write(line)

    def _sync(self, line: bytes) -> None:
        """Sync the file. If the sync fails, write the line into another segment and sync again, once."""
        try:
            self._segment.sync()
        except OSError as error:
            if self._fruitless >= _MOST_FRUITLESS:
                raise
            self._fruitless += 1
            self._begin(_unsynced(error))
            if not self._has_room(len(line)):
                raise
            self._put(line)
            self._segment.sync()

    def _end_at_cap(self, record: Record) -> None:
        """Write a `cap_reached`, if there is room."""
        line = self._cap_reached(record)
        if not self._is_capped and self._has_room(len(line)):
            self._put(line)
            if self._durability == "record":
                self._sync(line)
        self._is_capped = True

    def _has_room(self, size: int) -> bool:
        if self._max_total is None:
            return True
        size += 1 + len(self._run_start) * self._preface_owed  # 1 for the newline after a torn line
        return self._other_bytes + self._segment.size + size <= self._max_total

    def _cap_reached(self, record: Record) -> bytes:
        event = {key: record[key] for key in ENVELOPE if key in record} | {"event": "cap_reached", "level": "warning"}
        total = self._other_bytes + self._segment.size
        event |= {"sink": "jsonl", "max_total_bytes": self._max_total, "total_bytes": total}
        return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)

    def _full_error(self) -> OSError:
        return OSError(errno.EDQUOT, f"max_total_bytes={self._max_total} is reached", str(self.path))


def _unsynced(error: OSError) -> str:
    return f"could not be synced ({error.strerror}); a power failure may lose lines since the last sync"


def option_error(option: str, expected: str, got: object) -> SinkError:
    """Return the error about a wrong option of the sink."""
    return SinkError(f"--sinks: jsonl: {option}: expected {expected}, got {got!r}")
