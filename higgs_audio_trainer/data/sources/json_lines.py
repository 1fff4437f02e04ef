"""JSON Lines: an object a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from higgs_audio_trainer.data.fields import BadField, kind_of
from higgs_audio_trainer.data.file_kind import other_encoding
from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.data.sources.source import Entry
from higgs_audio_trainer.data.sources.text_file import TextFile

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
        for number, line in enumerate(self.text.lines(), start=1):
            if not line.strip():
                continue
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
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadField("line", "a JSON object in UTF-8", f"{error.msg} (column {error.colno})")
    return entry if isinstance(entry, dict) else BadField("line", "a JSON object", kind_of(entry))
