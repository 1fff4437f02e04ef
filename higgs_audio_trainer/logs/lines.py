"""The files of a log: which there are, and their lines as records. A line that is none costs itself alone."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from higgs_audio_trainer.errors import Fault, UserError

Record = dict[str, Any]
OnFault = Callable[[Fault], None]

LONGEST_LINE = 2**20  # bytes; four times the longest that the writer makes
_FILE = re.compile(r"rank(\d+)-attempt(\d+)(?:\.segment(\d+))?\.jsonl")
_NEWLINE = b"\n"


def whole(record: Record, name: str) -> int | None:
    """Return a field that is a whole number; None where it is something else or not there."""
    value = record.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def find(path: Path) -> list[tuple[tuple[int, int], list[Path]]]:
    """Find the segments of each rank and attempt, in order; a file that is named itself is a log by itself.

    Returns:
        rank and attempt, and the files.

    Raises:
        UserError: there are none.
    """
    try:
        if not path.is_dir():
            path.stat()
            match = _FILE.fullmatch(path.name)
            return [((int(match[1]), int(match[2])) if match else (0, 0), [path])]
        found = _files_in(path / "events") or _files_in(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not found:
        raise UserError(
            f"{path}: expected files named rank00000-attempt000.jsonl, there or in its folder events, got none. "
            "Name a run's --output_dir, or the folder that was given as --sinks jsonl:dir=FOLDER"
        )
    return sorted(found.items())


def _files_in(folder: Path) -> dict[tuple[int, int], list[Path]]:
    matches = [(match, file) for file in folder.glob("*.jsonl") if (match := _FILE.fullmatch(file.name))]
    segments: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    for match, file in matches:
        if file.is_file():
            segments.setdefault((int(match[1]), int(match[2])), []).append((int(match[3] or 0), file))
    return {numbers: [file for _, file in sorted(files)] for numbers, files in segments.items()}


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: expected a log that can be read, got: {error.strerror}. Name a file or a folder of logs."
    )


def lines(path: Path, on_fault: OnFault) -> Iterator[tuple[bytes, Record]]:
    """Yield the lines of a file that hold a record, with the record. Split at the newline byte alone.

    Args:
        path: the file.
        on_fault: is told of the other lines, by their number and byte offset.

    Raises:
        UserError: the file cannot be read.
    """
    offset = 0
    with _opened(path) as file:
        for number in itertools.count(1):
            line = _up_to_newline(file, path)
            if not line:
                return
            size = len(line)
            outcome: Record | _Wrong
            if size == LONGEST_LINE and not line.endswith(_NEWLINE):
                size += _skip_line(file, path)
                outcome = _Wrong("$", f"a line of at most {LONGEST_LINE:,} bytes", f"{size:,} bytes")
            else:
                outcome = _parsed(line)
            if isinstance(outcome, dict):
                yield line, outcome
            else:
                on_fault(Fault(f"{path}:{number} (byte {offset})", *outcome))
            offset += size


def tail(path: Path) -> Iterator[Record]:
    """Yield the last records of a file, the last one first: those within the length of the longest line.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
            data = file.read(LONGEST_LINE)
    except OSError as error:
        raise _unreadable(path, error) from error
    outcomes = (_parsed(line) for line in reversed(data.split(_NEWLINE)))
    yield from (outcome for outcome in outcomes if isinstance(outcome, dict))


class _Wrong(NamedTuple):
    """What is wrong with a line: the fields of a `Fault` but for its place."""

    field: str
    expected: str
    got: str


def _parsed(line: bytes) -> Record | _Wrong:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        torn = "" if line.endswith(_NEWLINE) else "a torn last line, "
        return _Wrong("$", "a JSON object", f"{torn}{len(line):,} bytes that are none ({error})")
    if not isinstance(record, dict):
        return _Wrong("$", "a JSON object", f"{type(record).__name__}")
    if not isinstance(record.get("event"), str):
        return _Wrong("$.event", "the name of an event", f"{type(record.get('event')).__name__}")
    return record


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _up_to_newline(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.readline(LONGEST_LINE)
    except OSError as error:
        raise _unreadable(path, error) from error


def _skip_line(file: BinaryIO, path: Path) -> int:
    """Pass over the rest of a line, part by part; return its size in bytes."""
    size = 0
    while part := _up_to_newline(file, path):
        size += len(part)
        if part.endswith(_NEWLINE):
            break
    return size
