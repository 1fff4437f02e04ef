"""Tables: CSV and TSV with or without a header, LJSpeech's `id|text|normalized`, and VITS file lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from higgs_audio_trainer.data.fields import BadField
from higgs_audio_trainer.data.file_kind import other_encoding
from higgs_audio_trainer.data.known_fields import SIMPLE_LINE
from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.data.sources.recordings import RecordingFinder, name_elsewhere
from higgs_audio_trainer.data.sources.source import Entry
from higgs_audio_trainer.data.sources.table_layout import Layout, rows_of
from higgs_audio_trainer.data.sources.text_file import TextFile

_TEXTS = frozenset(("id", "audio", "codes", "text", "scene", "speaker", "ref_audio", "ref_codes", "ref_text"))
_SURROGATE = re.compile("[\udc80-\udcff]")
_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d*)?([eE][+-]?\d{1,2})?", re.ASCII)


@dataclass(frozen=True)
class Table:
    """A table with a sample a row.

    Attributes:
        text: The file.
        columns: Names of columns.
        layout: Separator and columns of the table.
        finder: Finder of the recordings.
    """

    text: TextFile
    columns: Columns
    layout: Layout
    finder: RecordingFinder

    @property
    def name(self) -> str:
        """Path of the file."""
        return str(self.text.path)

    @property
    def folder(self) -> Path:
        """Folder of relative paths."""
        return self.text.folder

    @property
    def form(self) -> str:
        """Separator of the columns, and the compression."""
        return f"{self.layout.form}{self.text.compression}"

    @property
    def decisions(self) -> tuple[str, ...]:
        """Meaning of the columns without a header, and the place of the recordings."""
        return tuple(filter(None, (self.layout.decision, _place(self.finder))))

    @property
    def fingerprint(self) -> str:
        """Hash of the file and the columns."""
        return "-".join(filter(None, (self.text.fingerprint, self.columns.key)))

    def entries(self) -> Iterator[Entry]:
        """Yield the rows.

        Raises:
            UserError: A quoted text does not end.
        """
        rows = rows_of(self.text.lines(), self.layout.separator, self.layout.quoting, self.name)
        for _ in range(self.layout.has_separator_line + self.layout.has_header):
            next(rows, None)
        for number, cells in rows:
            yield self._entry(f"{self.name}:{number}", cells)

    def _entry(self, where: str, cells: list[str]) -> Entry:
        layout = self.layout
        if len(cells) != len(layout.names):
            advice = f". Put texts with {layout.separator_name} into quotes" if len(cells) > len(layout.names) else ""
            columns = f"{len(layout.names)} columns, as in the {'header' if layout.has_header else 'first rows'}"
            return Entry(where, {}, BadField("line", columns, f"{len(cells)}{advice}"))
        if any(_SURROGATE.search(cell) for cell in cells):
            return Entry(where, {}, BadField("line", "a text in UTF-8", other_encoding(b"", self.text.path.name)))
        row = {name: cell for name, cell in zip(layout.names, cells, strict=True) if cell.strip()}
        if layout.has_header:
            row = dict(self.columns.renamed(row))
        if layout.audio_of_id is not None and layout.audio_of_id in row:
            row["audio"] = row[layout.audio_of_id]
        values = {name: self._value(name, cell) for name, cell in row.items()}
        audio = next((name for name in row if SIMPLE_LINE.known(name) == "audio"), "")
        name = name_elsewhere(row.get(audio), values.get(audio))
        return Entry(where, values, name=name, settled=self.columns.settled)

    def _value(self, name: str, cell: str) -> Any:
        field = SIMPLE_LINE.known(name)
        if field in ("audio", "ref_audio"):
            return self.finder.path(cell)
        return cell if field in _TEXTS else _number(cell)


def _number(cell: str) -> str | int | float:
    if not _NUMBER.fullmatch(cell):
        return cell
    return int(cell) if cell.lstrip("+-").isdecimal() else float(cell)


def _place(finder: RecordingFinder) -> str:
    if not finder.places or finder.places == [("", "")]:
        return ""
    return "recordings " + " and ".join(str(Path(folder, f"*{ending}")) for folder, ending in finder.places)
