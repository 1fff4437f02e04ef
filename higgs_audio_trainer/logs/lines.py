"""The lines of a file of a log. A line that holds no event costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from higgs_audio_trainer.errors import InputProblem
from higgs_audio_trainer.logs.source import DAMAGED, end_of, opened, unreadable
from higgs_audio_trainer.logs.typed import Misfit, Record, typed

OnFault = Callable[[InputProblem], None]
EventOf = Callable[[Record], Any]  # a `Logged`, what is wrong with the record, or None where no event is asked for

LONGEST_LINE = 2**20  # bytes; four times the longest that the writer makes
_NEWLINE = b"\n"


class Line(NamedTuple):
    """A line that holds an event.

    Attributes:
        record: the JSON object.
        event: the same as a typed event, a `Logged`; None where it is as no type says, if such lines are asked for, or
            where none was made of it.
        raw: its bytes, newline included.
        path: its file.
        number: of the line in its file, counted from 1.
        offset: of its first byte in its file.
    """

    record: Record
    event: Any
    raw: bytes
    path: Path
    number: int
    offset: int

    @property
    def where(self) -> str:
        """The place, as faults name it."""
        return where(self.path, self.number, self.offset)


def where(path: Path, number: int, offset: int) -> str:
    """Name a place in a log: `file:line (byte offset)`."""
    return f"{path}:{number} (byte {offset})"


def whole(record: Record, name: str) -> int | None:
    """Return a field that is a whole number; None where it is something else or not there."""
    value = record.get(name)
    return value if type(value) is int else None  # True is none


class LogFile:
    """A file of a log, read line by line, and read on where it has grown.

    Args:
        path: the file; `-` is standard input.
        on_fault: is told of lines that hold no event.
        misfits: yield those of them, too, that are objects with the name of an event.
        event_of: makes the event of a record.

    Attributes:
        number: lines read.
        offset: bytes read, after decompression.
    """

    def __init__(self, path: Path, on_fault: OnFault, *, misfits: bool = False, event_of: EventOf = typed) -> None:
        self.path = path
        self.number = 0
        self.offset = 0
        self._on_fault = on_fault
        self._misfits = misfits
        self._event_of = event_of

    def lines(self, *, growing: bool = False) -> Iterator[Line]:
        """Yield the lines from where the last call ended. Split at the newline byte alone.

        Args:
            growing: somebody writes to it: leave a line without its newline for the next call.

        Raises:
            UserError: the file cannot be read.
        """
        with opened(self.path, self.offset) as file:
            while line := self._read(file, LONGEST_LINE):
                size, is_ended = len(line), line.endswith(_NEWLINE)
                if size == LONGEST_LINE and not is_ended:
                    rest, is_ended = self._skip(file)
                    size += rest
                if growing and not is_ended:
                    return
                self.number += 1
                place, self.offset = self.offset, self.offset + size
                record = object_of(line) if size == len(line) else _too_long(size)
                if isinstance(record, Misfit):
                    self._on_fault(InputProblem(where(self.path, self.number, place), *record))
                    continue
                event = self._event_of(record)
                if isinstance(event, Misfit):
                    self._on_fault(InputProblem(where(self.path, self.number, place), *event))
                    if not self._misfits:
                        continue
                    event = None
                yield Line(record, event, line, self.path, self.number, place)

    def _read(self, file: BinaryIO, limit: int) -> bytes:
        try:
            return file.readline(limit)
        except DAMAGED as error:
            place = where(self.path, self.number + 1, self.offset)
            self._on_fault(
                InputProblem(place, "$", "compressed bytes that are whole", f"{error or type(error).__name__}")
            )
            return b""
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _skip(self, file: BinaryIO) -> tuple[int, bool]:
        """Pass over the rest of a line, part by part; return its size in bytes, and whether it has an end."""
        size = 0
        while part := self._read(file, LONGEST_LINE):
            size += len(part)
            if part.endswith(_NEWLINE):
                return size, True
        return size, False


def object_of(line: bytes) -> Record | Misfit:
    """Parse a line as an object with the name of an event, whatever else it holds; or say why it is none."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        torn = "" if line.endswith(_NEWLINE) else "a torn last line, "
        return Misfit("$", "a JSON object", f"{torn}{len(line):,} bytes that are none ({error})")
    if not isinstance(record, dict):
        return Misfit("$", "a JSON object", type(record).__name__)
    if not isinstance(record.get("event"), str):
        return Misfit("$.event", "the name of an event", type(record.get("event")).__name__)
    return record


def _too_long(size: int) -> Misfit:
    return Misfit("$", f"a line of at most {LONGEST_LINE:,} bytes", f"{size:,} bytes")


def tail(path: Path) -> Iterator[Record]:
    """Yield the last records of a file, the last one first: those within the length of the longest line.

    Raises:
        UserError: the file cannot be read.
    """
    for line in reversed(end_of(path, LONGEST_LINE).split(_NEWLINE)):
        record = object_of(line)
        if not isinstance(record, Misfit) and not isinstance(typed(record), Misfit):
            yield record
