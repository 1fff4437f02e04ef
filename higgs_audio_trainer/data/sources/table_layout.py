r"""Layout of a table: the separator, the quotes, and the meaning of the columns, found in the first rows."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from higgs_audio_trainer.data.known_fields import SIMPLE_LINE
from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.data.sources.recordings import FOLDERS, RecordingFinder, is_recording
from higgs_audio_trainer.errors import UserError

_SEPARATORS = {"|": "'|'", "\t": "tabs", ";": "semicolons", ",": "commas"}
_SAMPLED_ROWS = 100
_TITLE = re.compile(r"[^\W\d][\w .#()\-]{0,40}")
_MOST_OF_A_HEADER = 2  # known fields by which a row is certainly a header
_NUMBER = re.compile(r"\d+(\.\d+)?")
_SEPARATOR_LINE = re.compile(rb'"?sep=([|\t;,])"?', re.IGNORECASE)
_LANGUAGE = re.compile(r"[^\W\d_]{2,12}([-_]\w{2,8})?")


@dataclass(frozen=True)
class Layout:
    """Layout of a table.

    Attributes:
        separator: Separator of the columns.
        quoting: Rule for quotes, a constant of `csv`.
        names: Names of the columns, from the header or by number.
        has_header: True if the first row is a header.
        audio_of_id: Column of ids that name the recordings, as in LJSpeech. None for a table with a column of paths.
        has_separator_line: True if Excel's line `sep=;` precedes the table.
    """

    separator: str
    quoting: int
    names: tuple[str, ...]
    has_header: bool
    audio_of_id: str | None = None
    has_separator_line: bool = False

    @property
    def separator_name(self) -> str:
        """Name of the separator."""
        return _SEPARATORS[self.separator]

    @property
    def form(self) -> str:
        """Description of the table."""
        return f"a table with {self.separator_name} between the columns, {'a' if self.has_header else 'no'} header"

    @property
    def decision(self) -> str:
        """Meaning of the columns of a table without a header."""
        if self.has_header:
            return ""
        return "columns " + ", ".join(f"{number} {name}" for number, name in enumerate(self.names, start=1))


def layout_of(lines: Sequence[bytes], columns: Columns, finder: RecordingFinder, name: str) -> Layout | None:
    """Return the layout of a table. None for a text that is no table.

    Args:
        lines: First lines that are not blank.
        columns: Names of columns.
        finder: Finder of the recordings.
        name: Name of the table, for messages.

    Raises:
        UserError: The table has no column of texts or of recordings, or none of the first recordings exists.
    """
    separator_line = _SEPARATOR_LINE.fullmatch(lines[0].strip(b" \r\n"))
    lines = lines[1:] if separator_line else lines
    separator = separator_line[1].decode() if separator_line else _separator(lines, columns)
    if separator is None or not lines:
        return None
    quoting = _quoting(separator, lines[0])
    rows = [cells for _, cells in rows_of(lines, separator, quoting, name, is_cut=True)][:_SAMPLED_ROWS]
    if not rows:
        return None
    first = rows[0]
    layout = Layout(separator, quoting, tuple(first), has_header=True)
    if _is_header(first, columns, finder):
        columns.require_once(name, first)
    else:
        width = Counter(map(len, rows)).most_common(1)[0][0]
        names = _names(width, [row for row in rows if len(row) == width], name)
        if not any(is_recording(row[0]) for row in rows):  # the name of the recording in LJSpeech
            names = ("id", *names[1:])
        layout = Layout(separator, quoting, _numbered(columns, names, name), has_header=False)
        columns = Columns()
    layout = replace(layout, has_separator_line=separator_line is not None)
    return _with_audio(layout, rows[layout.has_header :], columns, finder, name)


def rows_of(
    lines: Iterable[bytes], separator: str, quoting: int, name: str, *, is_cut: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the cells of each row that is not blank.

    Args:
        lines: Lines in UTF-8. Other bytes become surrogates.
        separator: Separator of the columns.
        quoting: Rule for quotes.
        name: Name of the table, for messages.
        is_cut: End without an error where the last row is incomplete.

    Raises:
        UserError: A quoted text does not end, or continues after its last quote, or is too long.
    """
    texts = (line.decode("utf-8", "surrogateescape") for line in lines)
    reader = csv.reader(texts, delimiter=separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
    number = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if is_cut:
                return
            if "limit" in str(error):
                raise UserError(
                    f"{name}:{number}: expected cells of at most {csv.field_size_limit():,} characters, got a longer "
                    "one. Close its quotes, or write the table as JSON Lines."
                ) from error
            raise UserError(
                f"{name}:{number}: expected quotes around whole texts, with doubled quotes inside, got {error}. "
                "Correct the quotes, or save the table with tabs between the columns."
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield number, [_unquoted(cell.strip(), separator, quoting) for cell in cells]
        number = reader.line_num + 1


def _unquoted(cell: str, separator: str, quoting: int) -> str:
    r"""Return a cell of a table with tabs without the quotes of its writer, who doubled the quotes inside.

    Example:
        >>> print(_unquoted('"She said ""no"" twice"', "\t", csv.QUOTE_NONE), _unquoted('"no"', "\t", csv.QUOTE_NONE))
        She said "no" twice "no"
    """
    inner = cell[1:-1]
    is_raw = separator == "\t" and quoting == csv.QUOTE_NONE
    is_quoted = is_raw and cell[:1] == cell[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def _separator(lines: Sequence[bytes], columns: Columns) -> str | None:
    first = lines[0].decode("utf-8", "surrogateescape")
    known = {mark: len(_fields(first.split(mark), columns)) for mark in _SEPARATORS if mark in first}
    best = max(known, key=lambda mark: known[mark], default="")
    if known.get(best, 0) >= _MOST_OF_A_HEADER:
        return best
    for separator in _SEPARATORS:
        rows = rows_of(lines[:_SAMPLED_ROWS], separator, _quoting(separator, lines[0]), "", is_cut=True)
        widths = {len(cells) for _, cells in rows}
        if min(widths, default=1) > 1 and (len(widths) == 1 or separator in "|\t"):
            return separator
    return None


def _quoting(separator: str, first: bytes) -> int:
    """Return the rule for quotes.

    In lists with '|' or tabs, quotes are letters of the text, as in LJSpeech, unless the whole first line is quoted.
    """
    cells = [cell.strip() for cell in first.split(separator.encode())]
    is_quoted = all(len(cell) > 1 and cell[:1] == cell[-1:] == b'"' for cell in cells)
    return csv.QUOTE_NONE if separator in "|\t" and not is_quoted else csv.QUOTE_MINIMAL


def _fields(cells: Iterable[str], columns: Columns) -> set[str]:
    """Return the fields that the cells of a header name."""
    names = {cell.strip().strip('"') for cell in cells}
    known = (SIMPLE_LINE.known(name) for name in names)
    return {field for field in known if field} | {field for field, name in columns.given() if name in names}


def _is_header(cells: Sequence[str], columns: Columns, finder: RecordingFinder) -> bool:
    fields = _fields(cells, columns)
    if not fields or any(map(is_recording, cells)) or finder.exists(cells[0]):
        return False
    return len(fields) >= _MOST_OF_A_HEADER or all(map(_TITLE.fullmatch, cells))


def _names(width: int, rows: Sequence[Sequence[str]], name: str) -> tuple[str, ...]:
    """Return the names of the columns of a table without a header, for the lists of common trainers.

    Raises:
        UserError: The columns are those of no such list.
    """
    columns = list(zip(*rows, strict=True))
    texts = sum(" " in row[1] or _letters(row[1]) == _letters(row[-1]) for row in rows)
    is_text = 2 * texts >= len(rows)  # the second column, and not a speaker
    ends_with_number = all(map(_NUMBER.fullmatch, columns[-1]))
    if width == 2:  # noqa: PLR2004 - VITS with one speaker
        return "audio", "text"
    if width == 3 and is_text and ends_with_number:  # noqa: PLR2004 - Mellotron
        return "audio", "text", "duration" if any("." in cell for cell in columns[-1]) else "speaker"
    if width == 3:  # noqa: PLR2004 - LJSpeech, or VITS with speakers
        return ("audio", "text", "normalized_text") if is_text else ("audio", "speaker", "text")
    if width == 4 and is_text and ends_with_number:  # noqa: PLR2004 - CSS10
        return "audio", "text", "normalized_text", "duration"
    if width == 4 and not is_text and all(map(_LANGUAGE.fullmatch, columns[2])):  # noqa: PLR2004 - Bert-VITS2, GPT-SoVITS
        return "audio", "speaker", "language", "text"
    raise UserError(
        f"{name}: expected a header with the names of the columns, such as audio and text, got {width} columns "
        f"without names: {' | '.join(rows[0])[:80]!r}. Write a header as the first line."
    )


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _numbered(columns: Columns, names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Return the names with the given columns, which are numbers in a table without a header."""
    numbers = [str(number) for number, _ in enumerate(names, start=1)]
    columns.check(name, numbers)
    given = {number: field for field, number in columns.given()}
    given_fields = set(given.values())
    return tuple(
        given.get(number, f"column {number}" if field in given_fields else field)
        for number, field in zip(numbers, names, strict=True)
    )


def _with_audio(
    layout: Layout, rows: Sequence[Sequence[str]], columns: Columns, finder: RecordingFinder, name: str
) -> Layout:
    """Return the layout with its column of recordings, after a search for the first recordings."""
    fields = columns.fields_of(layout.names)
    audio_of_id = None if {"audio", "codes"} & fields.keys() else fields.get("id")
    columns.require(name, layout.names, {**fields, "audio": audio_of_id} if audio_of_id else fields)
    audio = fields.get("audio", audio_of_id)
    if audio is None:
        return layout
    index = layout.names.index(audio)
    recordings = [row[index] for row in rows if len(row) == len(layout.names) and row[index]]
    if recordings and not any(map(finder.exists, recordings)):
        raise UserError(
            f"{name}: expected the recordings of column {audio!r} below {', '.join(finder.bases)}, or in a folder "
            f"{', '.join(FOLDERS)} there, got none of the first {len(recordings)}, such as {recordings[0]!r}. "
            "Move the table to the recordings, or name another column with --audio_column."
        )
    return replace(layout, audio_of_id=audio_of_id)
