"""JSON Lines: an object a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from higgs_audio_trainer.bounds import (
    MAX_DEPTH,
    MAX_EMPTY_LINES,
    MAX_ENTRY_VALUES,
    are_in_force,
    is_too_deep,
    way_out,
)
from higgs_audio_trainer.data.fields import BadField, kind_of
from higgs_audio_trainer.data.file_kind import other_encoding
from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.data.sources.source import Entry
from higgs_audio_trainer.data.sources.text_file import TextFile
from higgs_audio_trainer.documents import TOO_DEEP, are_many_values, wide_integer
from higgs_audio_trainer.errors import UserError

JSON_LINES = "JSON Lines"


@dataclass(frozen=True)
class JsonLines:
    """A manifest in JSON Lines.

    Attributes:
        text: The file.
        columns: Names of columns.
    """

    text: TextFile
    columns: Columns
    decisions = ()

    def __post_init__(self) -> None:
        first = next((_parsed(line) for line in self.text.head_lines()), None)
        if isinstance(first, dict):
            self.columns.check(f"{self.name}:1", first)

    @property
    def name(self) -> str:
        """Path of the file."""
        return str(self.text.path)

    @property
    def form(self) -> str:
        """JSON Lines, and the compression."""
        return f"{JSON_LINES}{self.text.compression}"

    @property
    def folder(self) -> Path:
        """Folder of relative paths."""
        return self.text.folder

    @property
    def fingerprint(self) -> str:
        """Hash of the file and the columns."""
        return "-".join(filter(None, (self.text.fingerprint, self.columns.key)))

    def entries(self) -> Iterator[Entry]:
        """Yield the objects of the lines."""
        empty = 0
        for number, line in enumerate(self.text.lines(), start=1):
            if not line.strip():
                empty += 1
                if empty > MAX_EMPTY_LINES and are_in_force():
                    raise UserError(
                        f"{self.name}:{number}: expected at most {MAX_EMPTY_LINES:,} empty lines in a row, got more. "
                        f"Remove the empty lines; {way_out()}"
                    )
                continue
            empty = 0
            where = f"{self.name}:{number}"
            entry = _parsed(line)
            if isinstance(entry, BadField) and not _is_utf_8(line):
                advice = other_encoding(line, self.text.path.name)
                entry = BadField("line", "a JSON object in UTF-8", f"str is not valid UTF-8: {advice}")
            if isinstance(entry, BadField):
                yield Entry(where, {}, entry)
            else:
                yield Entry(where, self.columns.renamed(entry), settled=self.columns.settled)


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parsed(line: bytes) -> dict[str, object] | BadField:
    if are_many_values(line, MAX_ENTRY_VALUES):
        return BadField("line", f"at most {MAX_ENTRY_VALUES:,} values", "more")
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if "limit exceeded" in error.msg:
            return BadField("line", *TOO_DEEP)
        return BadField("line", "a JSON object in UTF-8", f"{error.msg} (column {error.colno})")
    if isinstance(entry, dict):
        if line.count(b"[") + line.count(b"{") > MAX_DEPTH and is_too_deep(entry):
            return BadField("line", *TOO_DEEP)
        if (integer := wide_integer(line)) is not None:
            return BadField(integer[0].removeprefix("$."), *integer[1:])
    return entry if isinstance(entry, dict) else BadField("line", "a JSON object", kind_of(entry))
