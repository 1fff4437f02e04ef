"""The JSONL file sink: one record, one line, one write, in a file that is never cut off or written over."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast, get_args

import orjson

from sinks.null import null_sink
from sinks.protocol import Record, Sink, SinkContext, SinkError
from sinks.retry import Retry
from sinks.segment import Segment, SegmentFiles
from sinks.shorten import ENVELOPE, encoded
from sinks.size import bytes_of
from sinks.terminal.screen import say_on_stderr

Durability = Literal["none", "checkpoint", "record"]

MAX_LINE_BYTES = 256 * 1024
_LANDMARKS = frozenset({"checkpoint", "run_end"})  # worth a sync
_WORTH_A_TRY = _LANDMARKS | {"sink_recovered"}  # ... whatever happened before
# After these the file takes no more, or may have lost some: the log goes on in another.
_LOST_FILE = frozenset({errno.EFBIG, errno.EIO, errno.ESTALE})
_MOST_FRUITLESS = 3  # files begun since a record was last written: a broken disk must not be littered with them
_SMALLEST_KIB = {"max_bytes": 4, "max_total_bytes": 64}
_KEEP = "a whole number from 1, and max_bytes beside it"
_SPEAKER = "higgs-audio-trainer: "
_LAST_WORDS_BYTES = 2048  # room for a `cap_reached` and a `run_end`


class JsonlSink:
    """Appends each record to a file as one line of JSON, unbuffered.

    When the call returns, the line has been handed to the operating system: it outlives the process. When it raises,
    the line is not in the file, but perhaps in part, as a torn line of its own. (A line whose sync failed in two files
    is there and raises all the same.) Where a file is lost, the log goes on in another segment beside it, whose first
    line is that of `run_start` again; readers drop a repeated line.

    Not safe from several threads: the pipeline calls it from one at a time. In a forked child it does nothing, and in
    a pickle it becomes the null sink: a file has one writer.

    Args:
        path: file to append to; its folder is made.
        durability: what is forced to the disk: `none`, `checkpoint` (all up to each `checkpoint` and `run_end`), or
            each `record`.
        max_bytes: size of a segment; a longer record gets one of its own.
        keep: how many segments of this log stay; None: all.
        max_total_bytes: size of them together. Where it is reached, one `cap_reached` follows and later `run_end`.
        say: tells a person one line.
        clock: seconds that only go forward.

    Raises:
        SinkError: the file cannot be opened or is no regular file, or the arguments contradict each other.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "none",
        max_bytes: int | None = None,
        keep: int | None = None,
        max_total_bytes: int | None = None,
        say: Callable[[str], None] = say_on_stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if durability not in get_args(Durability):
            raise _wrong("durability", f"one of {', '.join(get_args(Durability))}", durability)
        if keep is not None and (max_bytes is None or keep < 1):
            raise _wrong("keep", _KEEP, keep)
        self._durability, self._max_bytes, self._keep, self._max_total = durability, max_bytes, keep, max_total_bytes
        self._say = say
        self._retry = Retry(clock)
        self._pid = os.getpid()
        self._run_start = b""
        self._preface_owed = False
        self._fruitless = 0
        self._is_capped = self._is_closed = False
        self._files = SegmentFiles(Path(path).absolute())  # wherever the process goes
        try:
            self._segment = self._files.open_first()
        except OSError as error:
            raise SinkError(
                f"jsonl: expected a file to append to, got {error.strerror} at {path}. "
                "Choose another folder: --sinks console,jsonl:dir=FOLDER"
            ) from error
        self._bare_size = self._other_bytes = 0
        self._tidy()

    @property
    def path(self) -> Path:
        """The file that records go to at present."""
        return self._segment.path

    def __reduce__(self) -> tuple[Callable[..., Sink], tuple[None]]:
        """Become the null sink in another process."""
        return null_sink, (None,)

    def __call__(self, record: Record) -> None:
        """Append one record.

        Raises:
            TypeError: the record holds something that is not a builtin, such as a tensor.
            OSError: the record is not in the file; or the sink is closed, or full.
        """
        if os.getpid() != self._pid:
            return
        event = record.get("event")
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self.path))
        if self._is_capped and event != "run_end":
            raise self._full_error()
        if event not in _WORTH_A_TRY:
            self._retry.refuse_early()
        line = encoded(record, MAX_LINE_BYTES)
        try:
            self._append(record, line)
        except OSError as error:
            error.filename = str(error.filename or self.path)
            self._retry.failed(error)
            raise
        self._retry.worked()
        self._fruitless = 0
        if event == "run_start" and not self._run_start:
            self._run_start = line

    def lock(self) -> bool:
        """Keep the file from another run's sink; return whether none has it."""
        return self._segment.lock()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if not self._is_closed and os.getpid() == self._pid:
            self._is_closed = True
            self._retire(self._segment)

    def _append(self, record: Record, line: bytes) -> None:
        self._stand()
        if self._is_full_for(line):
            self._begin()
        event = record.get("event")
        reserve = 0 if event == "run_end" else _LAST_WORDS_BYTES + 2 * len(self._run_start)
        if not self._has_room(len(line) + reserve):
            self._end_at_cap(record)
            raise self._full_error()
        self._put(line)
        if self._durability == "record" or (self._durability == "checkpoint" and event in _LANDMARKS):
            self._sync(line)

    def _stand(self) -> None:
        """See to it that there is a sound file at its path."""
        number = self._retry.errno
        if what_happened := self._segment.look():
            self._begin(what_happened)
        elif (self._segment.spoiled or number in _LOST_FILE) and self._fruitless < _MOST_FRUITLESS:
            self._fruitless += 1
            self._begin(f"failed ({os.strerror(number or errno.EIO)})")
        elif number is not None:
            self._segment = self._segment.reopened()

    def _is_full_for(self, line: bytes) -> bool:
        if self._max_bytes is None:
            return False
        size = self._segment.size
        return size > self._bare_size and size + len(line) > self._max_bytes

    def _begin(self, why: str | None = None) -> None:
        """Go on in the next segment. `why`: what happened to the present one; None: it is full."""
        last, self._segment = self._segment, self._files.create_next()
        self._preface_owed = bool(self._run_start)
        self._bare_size = len(self._run_start)
        self._other_bytes += last.size
        self._retire(last)
        if why:
            self._say(f"{_SPEAKER}{last.path} {why}; the log goes on in {self.path}")
        self._tidy()

    def _retire(self, segment: Segment) -> None:
        with suppress(OSError):  # its last line is whole, or was counted as lost
            segment.end_line()
        if self._durability != "none" and not segment.spoiled:
            try:
                segment.sync()
            except OSError as error:
                self._say(f"{_SPEAKER}{segment.path} {_unsynced(error)}")
        segment.close()

    def _tidy(self) -> None:
        """Remove the oldest segments but for `keep`, and add up those that stay beside the present one."""
        if self._keep is None and self._max_total is None:
            return
        try:
            segments = [item for item in self._files.segments() if item.path != self.path]
            while self._keep is not None and len(segments) >= self._keep:
                self._files.remove(segments[0].path)
                del segments[0]
            self._other_bytes = sum(item.size for item in segments)
        except OSError as error:  # the log itself is sound
            self._say(f"{_SPEAKER}old segments of {self.path} could not be removed: {error}")

    def _put(self, line: bytes) -> None:
        if self._preface_owed:
            self._segment.write(self._run_start)
            self._preface_owed = False
        self._segment.write(line)

    def _sync(self, line: bytes) -> None:
        """Have the disk keep the line; where it does not, write it into another file, once."""
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
        """Say in the log, once, that it takes no more, as far as there is room to say it."""
        last_words = self._cap_reached(record)
        if not self._is_capped and self._has_room(len(last_words)):
            self._put(last_words)
            if self._durability == "record":
                self._sync(last_words)
        self._is_capped = True

    def _has_room(self, size: int) -> bool:
        if self._max_total is None:
            return True
        size += 1 + len(self._run_start) * self._preface_owed  # a torn line may be owed a newline
        return self._other_bytes + self._segment.size + size <= self._max_total

    def _cap_reached(self, record: Record) -> bytes:
        says = {key: record[key] for key in ENVELOPE if key in record} | {"event": "cap_reached", "level": "warning"}
        total = self._other_bytes + self._segment.size
        says |= {"sink": "jsonl", "max_total_bytes": self._max_total, "total_bytes": total}
        return orjson.dumps(says, option=orjson.OPT_APPEND_NEWLINE)

    def _full_error(self) -> OSError:
        return OSError(errno.EDQUOT, f"max_total_bytes={self._max_total} is reached", str(self.path))


def _unsynced(error: OSError) -> str:
    return f"could not be synced ({error.strerror}): a power cut may cost what it holds since the last sync"


def jsonl_sink(
    context: SinkContext,
    *,
    dir: str | None = None,  # noqa: A002 - the option's name on the command line
    durability: str = "none",
    max_bytes: str | None = None,
    keep: str | None = None,
    max_total_bytes: str | None = None,
) -> Sink:
    """Make the file sink of one rank and attempt.

    Args:
        context: the run.
        dir: folder of the files, `~` for the home folder; `OUTPUT_DIR/events` if not given.
        durability: `none`, `checkpoint` or `record`; see `JsonlSink`.
        max_bytes: size of a segment, such as `100M`.
        keep: how many segments stay.
        max_total_bytes: size of all segments.

    Raises:
        SinkError: an option is wrong, the file cannot be opened or is no regular file, or it holds another run.
    """
    if dir == "":
        raise SinkError("--sinks: jsonl: dir: expected a folder, got nothing")
    folder = Path(context.output_dir) / "events" if dir is None else Path(dir).expanduser()
    path = folder / f"rank{context.rank:05d}-attempt{context.attempt:03d}.jsonl"
    if keep is not None and not re.fullmatch("[0-9]{1,9}", keep):
        raise _wrong("keep", _KEEP, keep)
    for item in SegmentFiles(path).segments() if folder.is_dir() else []:
        if item.size:
            raise SinkError(_taken(item.path))
    sink = JsonlSink(
        path,
        durability=cast("Durability", durability),  # checked there
        max_bytes=_size("max_bytes", max_bytes),
        keep=None if keep is None else int(keep),
        max_total_bytes=_size("max_total_bytes", max_total_bytes),
        say=context.say,
    )
    if not sink.lock():
        sink.close()
        raise SinkError(_taken(path))
    return sink


def _taken(path: Path) -> str:
    return (
        f"jsonl: expected a file of its own, got {path}, which holds another run's events. "
        "Choose another folder: --sinks console,jsonl:dir=FOLDER"
    )


def _size(option: str, text: str | None) -> int | None:
    size = None if text is None else bytes_of(text) or 0
    if size is not None and size < _SMALLEST_KIB[option] * 1024:
        raise _wrong(option, f"a number of bytes such as 500K, 100M or 2G, at least {_SMALLEST_KIB[option]}K", text)
    return size


def _wrong(option: str, expected: str, got: object) -> SinkError:
    return SinkError(f"--sinks: jsonl: {option}: expected {expected}, got {got!r}")
