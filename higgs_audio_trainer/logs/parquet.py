"""Export of a log to Parquet: a file for each run and event name, a column for each field, with the types of `events`.

Memory does not grow with the log. A few MiB of lines for each run and event name wait to become a row group. The files
are renamed to their final names, and replace older files, after all files are complete.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, TracebackType
from typing import IO, Any, Literal, Self, get_args, get_origin, get_type_hints

from higgs_audio_trainer.atomic_file import atomic_file, make_folder
from higgs_audio_trainer.events import EVENTS, Envelope
from higgs_audio_trainer.logs.lines import LogLine

OTHER = "other"  # file name for events unknown to this version
_GROUP_BYTES = 4 * 1024 * 1024  # lines of a row group
_Json = dict[str, Any]


class ParquetFiles:
    """Context manager for writing lines to Parquet files. The files appear when the block ends without an error.

    Args:
        folder: Folder of the folders of the runs. Missing folders are created.
        group_bytes: Bytes of lines in a row group.
    """

    def __init__(self, folder: Path, *, group_bytes: int = _GROUP_BYTES) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        self._arrow = pa
        self._folder = folder
        self._group_bytes = group_bytes
        self._files = ExitStack()
        self._tables: dict[tuple[str, str], _EventTable] = {}  # by run and event

    def __enter__(self) -> Self:
        """Return the files. Folders are created for the first line of a run."""
        return self

    def add(self, run_id: str, line: LogLine) -> None:
        """Add a line to the file of the line's run and event.

        Raises:
            OSError: The disk is full, or the file cannot be written.
        """
        name = line.record["event"] if isinstance(line.event, EVENTS.get(line.record["event"], NoneType)) else OTHER
        key = run_id, name
        if key not in self._tables:
            make_folder(self._folder / run_id)
            file = self._files.enter_context(atomic_file(self._folder / run_id / f"{name}.parquet"))
            self._tables[key] = _EventTable(self._arrow, file, _hints(name))
        self._tables[key].add(line, self._group_bytes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Rename the complete files to their final names, or remove all temporary files after an error."""
        try:
            if kind is None:
                for table in self._tables.values():
                    table.finish()
        except BaseException:
            self._discard(*sys.exc_info())
            raise
        if kind is None:
            self._files.close()
        else:
            self._discard(kind, error, at)

    def _discard(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for table in self._tables.values():
            table.discard()
        self._files.__exit__(kind, error, at)


class _EventTable:
    """Rows of an event name."""

    def __init__(self, arrow: Any, file: IO[bytes], hints: Mapping[str, Any]) -> None:
        self._arrow = arrow
        self._hints = hints
        self._schema = arrow.schema([(name, _type(arrow, hint)) for name, hint in hints.items()])
        self._writer = arrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[_Json] = []
        self._bytes = 0

    def add(self, line: LogLine, group_bytes: int) -> None:
        self._rows.append(self._row(line))
        self._bytes += len(line.raw)
        if self._bytes >= group_bytes:
            self._write()

    def _row(self, line: LogLine) -> _Json:
        if "record" in self._hints:
            return {"record": json.dumps(line.record)}
        row = {name: _value(line.record.get(name), hint) for name, hint in self._hints.items()}
        extra = line.event.extra
        return row | {"extra": json.dumps(extra) if extra else None}

    def _write(self) -> None:
        self._writer.write_batch(self._arrow.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def finish(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()

    def discard(self) -> None:
        with suppress(Exception):  # the file is removed anyway; the close may fail on a full disk
            self._writer.close()


def _hints(name: str) -> dict[str, Any]:
    if name == OTHER:
        return {"record": str}
    return dict(_types_of(Envelope)) | dict(_types_of(EVENTS[name])) | {"extra": str | None}


def _types_of(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(cls)
    return ((item.name, hints[item.name]) for item in fields(cls))


def _type(arrow: Any, hint: Any) -> Any:
    """Return the Arrow type of a column. A mapping with values of any type becomes a JSON string."""
    hint = _without_none(hint)
    plain = {int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_(), str: arrow.string()}
    if hint in plain:
        return plain[hint]
    if isinstance(hint, type) and is_dataclass(hint):
        return arrow.struct([(name, _type(arrow, inner)) for name, inner in _types_of(hint)])
    if get_origin(hint) is tuple:
        return arrow.list_(_type(arrow, get_args(hint)[0]))
    if get_origin(hint) is dict and get_args(hint)[1] is not Any:
        key, value = get_args(hint)
        return arrow.map_(_type(arrow, key), _type(arrow, value))
    return arrow.string()  # a `Literal` or JSON


def _value(value: Any, hint: Any) -> Any:
    if isinstance(value, dict) and get_origin(hint) is dict:
        return json.dumps(value) if get_args(hint)[1] is Any else list(value.items())
    return value


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    is_optional = len(kinds) == 1 and NoneType in get_args(hint) and get_origin(hint) not in (tuple, dict, Literal)
    return kinds[0] if is_optional else hint
