"""Rows of Arrow tables: Parquet files and data sets of Hugging Face, with recordings as paths or bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from higgs_audio_trainer.data.known_fields import SETTLED, SETTLED_OF_BYTES, SIMPLE_LINE
from higgs_audio_trainer.data.sources.audio_bytes import write_audio
from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.data.sources.recordings import RecordingFinder, name_elsewhere
from higgs_audio_trainer.data.sources.source import Entry
from higgs_audio_trainer.errors import UserError

_TIMES = ("offset", "end")  # of a stretch
_ROWS = 16  # converted at once, as a recording may have megabytes


@dataclass(frozen=True)
class ArrowRows:
    """Rows of tables with one schema.

    Attributes:
        name: Name of the source.
        form: Form of the source.
        folder: Folder of relative paths.
        content: Hash of the rows.
        schema: Schema of the rows.
        tables: Opens the rows, as tables of a few columns.
        columns: Names of columns.
        audio_folder: Folder for recordings that are given as bytes.
    """

    name: str
    form: str
    folder: Path
    content: str
    schema: pa.Schema
    tables: Callable[[list[str]], Iterator[pa.Table]]
    columns: Columns
    audio_folder: Path | None

    def __post_init__(self) -> None:
        self.columns.require_once(self.name, self.schema.names)
        names = [name for name in self.schema.names if self._is_readable(name)]
        fields = self.columns.fields_of(names)
        if self._audio:
            fields["audio"] = self._audio
        self._require_types(fields)
        self.columns.require(self.name, self.schema.names, fields)
        if self._holds_bytes and self.audio_folder is None:
            raise UserError(
                f"{self.name}: expected paths of recordings, got recordings as bytes. Name a folder with --codes_dir."
            )

    def _require_types(self, fields: Mapping[str, str]) -> None:
        """Check that the columns of recordings and texts hold such.

        Raises:
            UserError: A column holds samples of a waveform or lists of words, for example.
        """
        named = {**self.columns.fields_of(self.schema.names), **fields}
        for field, kind in (("audio", "recordings, as paths or files"), ("text", "texts")):
            name = named.get(field)
            is_needed = named.keys().isdisjoint({"codes", "messages"}) and name in self.schema.names
            if name and is_needed and not self._is_readable(name):
                raise UserError(
                    f"{self.name}: expected a column of {kind}, got {name} of type {self.schema.field(name).type}. "
                    f"Name another column with --{field}_column, or convert the column."
                )

    @property
    def fingerprint(self) -> str:
        """Hash of the rows and the columns."""
        return "-".join(filter(None, (self.content, self.columns.key)))

    @property
    def decisions(self) -> tuple[str, ...]:
        """Unused columns, and the folder of recordings from bytes."""
        others = [name for name in self.schema.names if name not in self._used]
        unused = f"columns that are not used: {', '.join(others)}" if others else ""
        place = f"recordings are written to {self.audio_folder}" if self._holds_bytes else ""
        times = [name for name in self._used if SIMPLE_LINE.known(name) in _TIMES]
        cut = f"not used where the recording is in the data set: {', '.join(times)}"
        return tuple(filter(None, (unused, place, cut if times and place else "")))

    def entries(self) -> Iterator[Entry]:
        """Yield the rows. Recordings that are given as bytes are written to files.

        Raises:
            UserError: The rows cannot be read, or a recording cannot be written.
        """
        number = 0
        try:
            for table in self.tables(self._used):
                for start in range(0, len(table), _ROWS):
                    for row in table.slice(start, _ROWS).to_pylist():
                        number += 1
                        yield self._entry(row, number)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.name}: row {number + 1}: {error}. Copy the files again.") from error

    def _entry(self, row: dict[str, Any], number: int) -> Entry:
        fields = self.columns.renamed(row)
        if self._audio in row:
            others = {name: value for name, value in fields.items() if SIMPLE_LINE.known(name) != "audio"}
            others.pop(self._audio, None)
            fields = {"audio": row[self._audio], **others}
        column = next((name for name in fields if SIMPLE_LINE.known(name) == "audio"), "audio")
        audio = fields.get(column)
        path = audio.get("path") if isinstance(audio, dict) else None
        name = PurePosixPath(path or f"row-{number}").stem if isinstance(audio, (dict, bytes)) else ""
        is_cut = isinstance(audio, bytes) or (isinstance(audio, dict) and audio.get("bytes") is not None)
        left_out = {"id", *(_TIMES if is_cut else ())}
        values = {
            name: value if name == "messages" else self._value(name, value)
            for name, value in fields.items()
            if value is not None
            and not (isinstance(value, float) and math.isnan(value))
            and SIMPLE_LINE.known(name) not in left_out
        }
        settled = SETTLED_OF_BYTES if is_cut else SETTLED
        name = self._id(fields) or name or name_elsewhere(audio, values.get(column))
        return Entry(f"{self.name}:{number}", values, name=name, settled=settled)

    def _id(self, fields: Mapping[str, Any]) -> str:
        """Return the id of a row, or an empty text. The id is not unique in data sets that number their sentences."""
        ids = {name: value for name, value in fields.items() if SIMPLE_LINE.known(name) == "id" and value is not None}
        value = ids.get("id", next(iter(ids.values()), ""))
        return value.strip() if isinstance(value, str) else json.dumps(value)

    def _value(self, name: str, value: Any) -> Any:
        """Return the path of a recording, which may be given as bytes or as an object with bytes and a path."""
        is_object = isinstance(value, dict)
        data, path = (value.get("bytes"), value.get("path")) if is_object else (value, value)
        if not isinstance(data, bytes) or self.audio_folder is None:
            is_path = isinstance(path, str) and (is_object or SIMPLE_LINE.known(name) in ("audio", "ref_audio"))
            return self._finder.path(path) if is_path else path
        path = path if isinstance(path, str) else ""
        return str(write_audio(data, path, self.audio_folder).absolute())

    @cached_property
    def _finder(self) -> RecordingFinder:
        return RecordingFinder(self.folder)

    @cached_property
    def _used(self) -> list[str]:
        """Columns of recordings, texts and numbers."""
        names = [name for name in self.schema.names if self._is_readable(name)]
        if self._audio is None:
            return names
        others = [name for name in names if SIMPLE_LINE.known(name) != "audio"]
        return others if self._audio in others else [self._audio, *others]

    @cached_property
    def _audio(self) -> str | None:
        """Column of the recordings: the given column, or the column of Hugging Face's Audio, or None.

        Raises:
            UserError: Several columns hold recordings.
        """
        if self.columns.audio:
            return self.columns.audio
        found = [field.name for field in self.schema if _is_audio(field.type)]
        named = [name for name in found if SIMPLE_LINE.known(name) == "audio"]
        others = [name for name in found if SIMPLE_LINE.known(name) != "ref_audio"]
        candidates = named or others
        if len(candidates) > 1:
            raise UserError(
                f"{self.name}: expected one column of recordings, got {', '.join(candidates)}. "
                "Name the column with --audio_column."
            )
        return candidates[0] if candidates else None

    @property
    def _holds_bytes(self) -> bool:
        return any(_is_audio(self.schema.field(name).type) for name in self._used if name in self.schema.names)

    def _is_readable(self, name: str) -> bool:
        if len(self.schema.get_all_field_indices(name)) != 1:  # of the same name, and none of a known one
            return False
        kind = self.schema.field(name).type
        if _is_audio(kind):
            return name == self._audio or SIMPLE_LINE.known(name) == "ref_audio"
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_scalar = any(
            check(kind)
            for check in (
                *(
                    pa.types.is_string,
                    pa.types.is_large_string,
                    pa.types.is_string_view,
                    pa.types.is_integer,
                    pa.types.is_floating,
                ),
                pa.types.is_boolean,
            )
        )
        return is_scalar or name == "messages"


def _is_audio(kind: pa.DataType) -> bool:
    """Return True for bytes, and for an object with bytes and a path."""
    if pa.types.is_struct(kind):
        names = {kind.field(index).name for index in range(kind.num_fields)}
        return {"bytes", "path"} <= names
    return any(check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))
