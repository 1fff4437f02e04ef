"""Lines of a log file. An invalid line does not affect other lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from higgs_audio_trainer.bounds import MAX_DEPTH, MAX_INVALID_LINES, BoundError, is_too_deep, way_out
from higgs_audio_trainer.decompression import damaged_errors
from higgs_audio_trainer.documents import TOO_DEEP, wide_integer
from higgs_audio_trainer.errors import InputProblem, UnreadRest
from higgs_audio_trainer.events import EVENTS
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.lines_without_event import LinesWithoutEvent
from higgs_audio_trainer.logs.source import end_of, opened, unreadable
from higgs_audio_trainer.logs.typed import Record, typed
from higgs_audio_trainer.phases import tell

OnProblem = Callable[[InputProblem], None]
Takes = Callable[[Record], bool]  # whether a record is read
EventOf = Callable[[Record], Any]  # returns a `Logged`, an `InvalidField`, or None if no event is needed

_LINES_TOLD = 4_096  # between two reports of progress
COMPLETE_DATA = "complete compressed data"  # expected where data contradicts its checksum, or ends too early
LONGEST_LINE = 2**20  # bytes; four times the longest line of the writer
#: Events whose known fields hold no values of any type.
_TYPED_EVENTS = {name for name, cls in EVENTS.items() if not any("Any" in str(item.type) for item in fields(cls))}
_NEWLINE = b"\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors write the mark before the first line


class LogLine(NamedTuple):
    """A line with an event.

    Attributes:
        record: JSON object of the line.
        event: Typed event of the line, a `Logged`. None for an invalid line of a reader with `keep_invalid`, and for a
            reader whose `event_of` returns None.
        raw: Bytes of the line with the newline.
        path: File of the line.
        number: Number of the line in the file, counted from 1.
        offset: Offset of the line's first byte in the decompressed file.
    """

    record: Record
    event: Any
    raw: bytes
    path: Path
    number: int
    offset: int

    @property
    def where(self) -> str:
        """Place of the line, as in error messages."""
        return where(self.path, self.number, self.offset)


def ignore_problem(_problem: InputProblem) -> None:
    """Ignore an invalid line."""


def where(path: Path, number: int, offset: int) -> str:
    """Return the name of a place in a log.

    Example:
        >>> where(Path("run.jsonl"), 3, 512)
        'run.jsonl:3 (byte 512)'
    """
    return f"{path}:{number} (byte {offset})"


def int_field(record: Record, name: str) -> int | None:
    """Return an integer field; None for another type or a missing field.

    Example:
        >>> record = {"step": 10, "loss": 2.5, "ok": True}
        >>> [int_field(record, name) for name in ("step", "loss", "ok", "rank")]
        [10, None, None, None]
    """
    value = record.get(name)
    return value if type(value) is int else None  # a bool is an instance of int, not a number


class LogFile:
    """Reader of a log file, line by line. The reader can continue after the file grew.

    Args:
        path: Path of the file; `-` is standard input.
        on_problem: Receives each invalid line.
        keep_invalid: Also yield objects with an event name and an invalid field.
        event_of: Function from a record to the event.
        takes: Function that returns True for a record to read. Other records are skipped.

    Attributes:
        number: Number of lines read.
        offset: Number of bytes read, after decompression.
    """

    def __init__(
        self,
        path: Path,
        on_problem: OnProblem,
        *,
        keep_invalid: bool = False,
        event_of: EventOf = typed,
        takes: Takes | None = None,
    ) -> None:
        self.path = path
        self.number = 0
        self.offset = 0
        self._on_problem = on_problem
        self._keep_invalid = keep_invalid
        self._event_of = event_of
        self._takes = takes
        self._without_event = LinesWithoutEvent(on_problem)
        self._is_stopped = False

    def lines(self, *, growing: bool = False) -> Iterator[LogLine]:
        """Yield the lines after the last line read. Only the newline byte ends a line.

        Args:
            growing: Whether another process writes to the file. A last line without a newline then waits for the next
                call.

        Raises:
            UserError: The file cannot be read.
        """
        with opened(self.path, self.offset) as file:
            while not self._is_stopped and (line := self._read(file, LONGEST_LINE)):
                size, is_ended = len(line), line.endswith(_NEWLINE)
                if size == LONGEST_LINE and not is_ended:
                    rest, is_ended = self._skip(file)
                    size += rest
                if growing and not is_ended:
                    return
                self.number += 1
                place, self.offset = self.offset, self.offset + size
                try:
                    record = self._record(line, size, place)
                except BoundError as error:
                    self._stop(error)
                    return
                if record is None or (self._takes is not None and not self._takes(record)):
                    continue
                event = self._event(record, line)
                if isinstance(event, InvalidField):
                    self._on_problem(InputProblem(where(self.path, self.number, place), *event))
                    if not self._keep_invalid or isinstance(event, _BeyondBound):
                        continue
                    event = None
                yield LogLine(record, event, line.removeprefix(_BYTE_ORDER_MARK), self.path, self.number, place)
            if not growing:
                self._without_event.end()

    def _record(self, line: bytes, size: int, place: int) -> Record | None:
        """Return the object of a line; None for an invalid line, which is reported, and for a byte order mark alone.

        Raises:
            BoundError: The file has too many lines without an event.
        """
        if size > len(line):
            record: Record | InvalidField = InvalidField(
                "$", f"a line of at most {LONGEST_LINE:,} bytes", f"{size:,} bytes"
            )
        elif line.isspace():
            self._without_event.empty(where(self.path, self.number, place))
            return None
        elif line == _BYTE_ORDER_MARK:
            return None
        else:
            record = _parsed(line)
        if isinstance(record, InvalidField):
            self._without_event.invalid(InputProblem(where(self.path, self.number, place), *record))
            return None
        if self._without_event.count:
            self._without_event.end()
        return record

    def _event(self, record: Record, line: bytes) -> Any:
        """Return the event of a record, or the invalid field. Only values of any type can be beyond a bound."""
        if record["event"] not in _TYPED_EVENTS and (found := _beyond_bound(record, line)):
            return found
        event = self._event_of(record)
        if isinstance(event, InvalidField) or (event is not None and event.extra):
            return _beyond_bound(record, line) or event
        return event

    def _read(self, file: BinaryIO, limit: int) -> bytes:
        if self.number % _LINES_TOLD == _LINES_TOLD - 1:
            tell(f"line {self.number + 1:,} of {self.path.name}")
        try:
            return file.readline(limit)
        except BoundError as error:
            self._stop(error)
            return b""
        except damaged_errors() as error:
            place = where(self.path, self.number + 1, self.offset)
            self._on_problem(InputProblem(place, "$", COMPLETE_DATA, f"{error or type(error).__name__}"))
            return b""
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _stop(self, error: BoundError) -> None:
        self._is_stopped = True
        got = f"{error.got}. The rest is not read; {way_out()}"
        self._on_problem(UnreadRest(where(self.path, self.number + 1, self.offset), "$", error.expected, got))

    def _skip(self, file: BinaryIO) -> tuple[int, bool]:
        """Skip the rest of a line in blocks; return the number of bytes and whether the line ends with a newline."""
        size = 0
        while part := self._read(file, LONGEST_LINE):
            size += len(part)
            if part.endswith(_NEWLINE):
                return size, True
        return size, False


def parse_line(line: bytes) -> Record | InvalidField:
    r"""Parse a line as a JSON object with an event name.

    Returns:
        The object, or an `InvalidField` with the problem.

    Example:
        >>> parse_line(b'{"event": "train_step", "step": 1}\n')
        {'event': 'train_step', 'step': 1}
        >>> parse_line(b'[1, 2]\n')
        InvalidField(field='$', expected='a JSON object', got='list')
    """
    record = _parsed(line)
    return record if isinstance(record, InvalidField) else _beyond_bound(record, line) or record


def _parsed(line: bytes) -> Record | InvalidField:
    """Parse a line like `parse_line`, without the check of depth and integers."""
    try:
        record = orjson.loads(line.removeprefix(_BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        if "limit exceeded" in error.msg:
            return InvalidField("$", *TOO_DEEP)
        if b'\0"' in line:
            return InvalidField("$", "a JSON object in UTF-8", "UTF-16 text. Save the log as UTF-8")
        torn = "" if line.endswith(_NEWLINE) else "a torn last line, "
        return InvalidField("$", "a JSON object", f"{torn}{len(line):,} bytes that are not JSON ({error})")
    if not isinstance(record, dict):
        return InvalidField("$", "a JSON object", type(record).__name__)
    if not isinstance(record.get("event"), str):
        return InvalidField("$.event", "the name of an event", type(record.get("event")).__name__)
    return record


class _BeyondBound(InvalidField):
    """A value nested too deep, or an integer beyond 64 bits. No reader handles such values."""

    __slots__ = ()


def _beyond_bound(record: Record, line: bytes) -> _BeyondBound | None:
    """Return the value of a record that is nested too deep or is an integer beyond 64 bits."""
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and is_too_deep(record):  # nearly every line has few brackets
        return _BeyondBound("$", *TOO_DEEP)
    return None if (integer := wide_integer(line)) is None else _BeyondBound(*integer)


def tail(path: Path) -> Iterator[Record]:
    """Yield the last records of a file, newest first, within the size of the longest line and the bound of lines.

    Raises:
        UserError: The file cannot be read.
    """
    for line in islice(filter(None, reversed(end_of(path, LONGEST_LINE).split(_NEWLINE))), MAX_INVALID_LINES):
        record = parse_line(line)
        if not isinstance(record, InvalidField) and not isinstance(typed(record), InvalidField):
            yield record
