"""Export of a log to Parquet: a folder partitioned by event and rank, in the style of Hive.

`event=train_step/rank=0/RUN.parquet` has the events of a run, a column for each field with the type of `events`. Event
and rank are in the names of the folders alone, so that Spark sees no column twice. Names with a leading dot are
temporary, and ignored by readers.

Memory and open files grow neither with the log nor with the ranks. Lines wait to become a row group, and the file with
most waiting lines is written when all wait for too much. A file is open only while a row group is written. The files
are renamed to their final names, and replace older files, after all files are complete.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints
from uuid import uuid4

import orjson

from higgs_audio_trainer.atomic_file import make_folder
from higgs_audio_trainer.errors import InputProblem, UserError
from higgs_audio_trainer.events import EVENTS, Envelope
from higgs_audio_trainer.logs.lines import LogLine, OnProblem, ignore_problem, int_field, where

OTHER = "other"  # name for events unknown to this version
_GROUP_BYTES = 4 * 1024 * 1024  # lines of a row group
_WAITING_BYTES = 64 * 1024 * 1024  # lines of all row groups to be written
#: Files of an export, each with its state in memory. Thousands of ranks have a handful of events each.
_MOST_FILES = 2**14
_PARTITIONS = ("event", "rank")
_NO_RANK = "__HIVE_DEFAULT_PARTITION__"  # Hive's name of null
_Json = dict[str, Any]
_Place = tuple[Path, int, int]  # file, line and offset


class ParquetFiles:
    """Context manager for writing lines to Parquet files. The files appear when the block ends without an error.

    Args:
        folder: Folder of the folders of the events. Missing folders are created.
        on_problem: Receives each line with a number too large for its column.
        group_bytes: Most bytes of lines in a row group.
        waiting_bytes: Most bytes of lines that wait to be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_problem: OnProblem = ignore_problem,
        group_bytes: int = _GROUP_BYTES,
        waiting_bytes: int = _WAITING_BYTES,
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        self._arrow = pa
        self._folder = folder
        self._on_problem = on_problem
        self._group_bytes, self._waiting_bytes = group_bytes, waiting_bytes
        self._waiting = 0  # bytes
        self._tables: dict[tuple[str, int | None, str], _EventTable] = {}  # by event, rank and run
        self._schemas: dict[str, tuple[Mapping[str, Any], Any]] = {}  # by event

    def __enter__(self) -> Self:
        """Return the files. A folder is created for its first line."""
        return self

    def add(self, run_id: str, line: LogLine) -> None:
        """Add a line to the file of the line's event, rank and run.

        Raises:
            OSError: The disk is full, or the file cannot be written.
            UserError: The log has too many ranks and runs.
        """
        name = line.record["event"] if isinstance(line.event, EVENTS.get(line.record["event"], NoneType)) else OTHER
        key = name, int_field(line.record, "rank"), run_id
        if key not in self._tables:
            if len(self._tables) == _MOST_FILES:
                raise UserError(
                    f"{line.where}: expected at most {_MOST_FILES:,} files, one for each event, rank and run, got "
                    "more. Name the files of fewer ranks, or choose a run with --run ID"
                )
            folder = self._folder / f"event={name}" / f"rank={_NO_RANK if key[1] is None else key[1]}"
            self._tables[key] = _EventTable(
                self._arrow, _File(folder / f"{run_id}.parquet"), *self._columns(name), self._on_problem
            )
        table = self._tables[key]
        table.add(line)
        self._waiting += len(line.raw)
        if table.waiting >= self._group_bytes:
            self._waiting -= table.write()
        elif self._waiting >= self._waiting_bytes:
            self._waiting -= max(self._tables.values(), key=lambda table: table.waiting).write()

    def _columns(self, name: str) -> tuple[Mapping[str, Any], Any]:
        """Return the types of an event's fields, and the schema of its files."""
        if name not in self._schemas:
            hints = _hints(name)
            fields_of = [(field, _type(self._arrow, field, hint)) for field, hint in hints.items()]
            self._schemas[name] = hints, self._arrow.schema(fields_of)
        return self._schemas[name]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Rename the complete files to their final names, or remove all temporary files after an error."""
        try:
            if kind is None:
                for table in self._tables.values():
                    table.finish()
                for table in self._tables.values():
                    table.file.replace()
        finally:
            for table in self._tables.values():
                table.discard()


class _File(io.RawIOBase):
    """Parquet file under a temporary name until `replace`. Bytes wait in memory for `append`: no file stays open."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary = target.parent / f".{target.name}.{uuid4().hex}"
        self._waiting = bytearray()
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, part: Any) -> int:
        self._waiting += part
        self._size += len(part)
        return len(part)

    def append(self) -> None:
        if not self._temporary.exists():
            make_folder(self._temporary.parent)
        with self._temporary.open("ab") as file:
            file.write(self._waiting)
        self._waiting.clear()

    def replace(self) -> None:
        if self._target.exists():
            shutil.copymode(self._target, self._temporary)
        self._temporary.replace(self._target)

    def remove(self) -> None:
        with suppress(NotADirectoryError):  # a file stands where the folder should be
            self._temporary.unlink(missing_ok=True)


class _EventTable:
    """Rows of an event of a rank and a run.

    Attributes:
        file: File of the rows.
        waiting: Bytes of the lines that wait to be written.
    """

    def __init__(self, arrow: Any, file: _File, hints: Mapping[str, Any], schema: Any, on_problem: OnProblem) -> None:
        self.file = file
        self.waiting = 0
        self._arrow = arrow
        self._hints = hints
        self._on_problem = on_problem
        self._schema = schema
        self._writer: Any = None  # from the first row group on; takes more memory than the lines of a short log
        self._lines: list[
            tuple[bytes, _Json, _Place]
        ] = []  # with unknown fields; objects of JSON would need much more memory

    def add(self, line: LogLine) -> None:
        self._lines.append((line.raw, line.event.extra, (line.path, line.number, line.offset)))
        self.waiting += len(line.raw)

    def _row(self, raw: bytes, extra: _Json) -> _Json:
        record = orjson.loads(raw)
        if "record" in self._hints:
            return {"record": json.dumps(record)}
        row = {name: _value(record.get(name), hint) for name, hint in self._hints.items()}
        row["ts"], has_time = _time(row["ts"])
        if not has_time:
            extra = extra | {"ts": record["ts"]}
        return row | {"extra": json.dumps(extra) if extra else None}

    def write(self) -> int:
        """Write the waiting lines as a row group, and return the bytes of the lines."""
        rows = [self._row(raw, extra) for raw, extra, _ in self._lines]
        try:
            batch = self._batch(rows)
        except (OverflowError, self._arrow.ArrowInvalid):
            batch = self._batch([self._fitting(row, *line) for row, line in zip(rows, self._lines, strict=True)])
        written, self._lines, self.waiting = self.waiting, [], 0
        if self._writer is None:
            self._writer = self._arrow.parquet.ParquetWriter(self.file, self._schema, compression="zstd")
        self._writer.write_batch(batch)
        self.file.append()
        return written

    def _batch(self, rows: list[_Json]) -> Any:
        return self._arrow.RecordBatch.from_pylist(rows, schema=self._schema)

    def _fitting(self, row: _Json, raw: bytes, _: _Json, place: _Place) -> _Json:
        """Return a row, or the whole line as JSON in `extra` if a number is too large for its column."""
        if self._fits(row):
            return row
        name = next((name for name, value in row.items() if not self._fits({name: value})), "")
        expected, got = "a value that fits the column", "a larger one: the line is JSON in the column extra"
        self._on_problem(InputProblem(where(*place), f"$.{name}", expected, got))
        return {"extra": raw.decode()}

    def _fits(self, row: _Json) -> bool:
        try:
            self._batch([row])
        except (OverflowError, self._arrow.ArrowInvalid):
            return False
        return True

    def finish(self) -> None:
        if self._lines:
            self.write()
        self._writer.close()
        self.file.append()

    def discard(self) -> None:
        """Remove the temporary file, if there is one."""
        with suppress(Exception):  # the file is removed anyway
            if self._writer is not None:
                self._writer.close()
        self.file.remove()


def _time(value: Any) -> tuple[datetime | None, bool]:
    """Return the time of a line, and False for a text that is no time."""
    try:
        return (None if value is None else datetime.fromisoformat(value)), True
    except ValueError:
        return None, False


def _hints(name: str) -> dict[str, Any]:
    if name == OTHER:
        return {"record": str}
    known = dict(_types_of(Envelope)) | dict(_types_of(EVENTS[name])) | {"extra": str | None}
    return {name: hint for name, hint in known.items() if name not in _PARTITIONS}


def _types_of(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(cls)
    return ((item.name, hints[item.name]) for item in fields(cls))


def _type(arrow: Any, name: str, hint: Any) -> Any:
    """Return the Arrow type of a column. A mapping with values of any type becomes a JSON string."""
    if name == "ts":
        return arrow.timestamp("us", tz="UTC")
    hint = _without_none(hint)
    plain = {int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_(), str: arrow.string()}
    if hint in plain:
        return plain[hint]
    if isinstance(hint, type) and is_dataclass(hint):
        return arrow.struct([(part, _type(arrow, part, inner)) for part, inner in _types_of(hint)])
    if get_origin(hint) is tuple:
        return arrow.list_(_type(arrow, name, get_args(hint)[0]))
    if get_origin(hint) is dict and get_args(hint)[1] is not Any:
        key, value = get_args(hint)
        return arrow.map_(_type(arrow, name, key), _type(arrow, name, value))
    return arrow.string()  # a `Literal` or JSON


def _value(value: Any, hint: Any) -> Any:
    hint = _without_none(hint)
    if isinstance(value, dict) and get_origin(hint) is dict:
        return json.dumps(value) if get_args(hint)[1] is Any else list(value.items())
    return value


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    is_optional = len(kinds) == 1 and NoneType in get_args(hint) and get_origin(hint) not in (tuple, dict, Literal)
    return kinds[0] if is_optional else hint
