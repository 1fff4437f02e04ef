"""Lines folded to a width in terminal columns."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import TextIO

from sinks.terminal.stream import is_terminal
from sinks.terminal.style import FIRST_STRONG_ISOLATE, POP_ISOLATE, RESET

NARROWEST = 20  # columns that a line of token ids needs
_USUAL = 80  # columns of a terminal
_MOST_DIGITS = 4  # of COLUMNS
_HANG = 2  # columns of indent for the rest of a folded line
_STYLE = re.compile("\x1b\\[[0-9;]*m")
_GAPS = re.compile(" {2,}")
_STATES = re.compile(f"{_STYLE.pattern}|[{FIRST_STRONG_ISOLATE}{POP_ISOLATE}]")
_WITHOUT_COLUMN = frozenset({"Mn", "Me", "Cf"})
_SHAPED = frozenset({"AL", "AN"})  # Arabic number signs are format characters that take a column
_JAMO = ((0x1160, 0x11FF), (0xD7B0, 0xD7FF))  # vowels and finals, drawn onto the previous letter


def terminal_columns(stream: TextIO | None) -> int | None:
    """Return the present width of the terminal of a stream, or None for a stream without a terminal.

    A number in the environment variable COLUMNS counts more than the size of the terminal, as in Python's
    `shutil.get_terminal_size`. A terminal that does not know its size has 80 columns.
    """
    if stream is None or not is_terminal(stream):
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given[:_MOST_DIGITS]):
        return max(int(given[:_MOST_DIGITS]), NARROWEST)
    try:
        size = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        size = 0
    return max(size or _USUAL, NARROWEST)


def fitted(text: str, stream: TextIO | None) -> str:
    """Return a text folded to the terminal of a stream, and unchanged for a stream without a terminal."""
    width = terminal_columns(stream)
    return text if width is None else folded(text, width)


def columns(text: str) -> int:
    r"""Return the number of terminal columns of a text.

    A wide letter takes two columns. Combining marks, format characters and styles take no column.

    Example:
        >>> columns("abc"), columns("日本"), columns("\x1b[1mbold\x1b[0m")
        (3, 4, 4)
    """
    text = _STYLE.sub("", text)
    return len(text) if text.isascii() else sum(map(_columns_of, text))


@lru_cache(maxsize=4096)
def _columns_of(character: str) -> int:
    if unicodedata.category(character) in _WITHOUT_COLUMN and unicodedata.bidirectional(character) not in _SHAPED:
        return 0
    if any(first <= ord(character) <= last for first, last in _JAMO):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def folded(text: str, width: int) -> str:
    """Return a text with each long line folded at gaps of two blanks, or else between words.

    The rest of a folded line is indented by two more columns. A word longer than the width is not cut. Styles and
    right-to-left isolates are closed at the end of a line and opened again in the next line.

    Args:
        text: Lines, separated by newlines.
        width: Longest line, in columns.

    Example:
        >>> print(folded("step 20  epoch 5.00  loss 4.132", 20))
        step 20  epoch 5.00
          loss 4.132
    """
    return "\n".join(chain.from_iterable(_folded(line, width) for line in text.split("\n")))


def _folded(line: str, width: int) -> Iterator[str]:
    if columns(line) <= width:
        yield line
        return
    body = line.lstrip(" ")
    indent = len(line) - len(body)
    hang = " " * (indent + _HANG)
    styles = _OpenStyles()
    for index, row in enumerate(_rows(body.rstrip(" "), width, indent)):
        yield (hang if index else " " * indent) + styles.continued(row)


def _rows(body: str, width: int, indent: int) -> Iterator[str]:
    """Yield the rows of a folded line without indents."""
    row, room = "", width - indent
    for gap, phrase in _phrases(body):
        if row and columns(f"{row}{gap}{phrase}") > room and columns(phrase) <= width - indent - _HANG:
            yield row
            row, room = phrase, width - indent - _HANG
            continue
        for index, word in enumerate(phrase.split(" ")):
            longer = f"{row}{' ' if index else gap}{word}" if row else word
            if row and columns(longer) > room:
                yield row
                row, room = word, width - indent - _HANG
            else:
                row = longer
    yield row


def _phrases(body: str) -> Iterator[tuple[str, str]]:
    """Yield each phrase between gaps of two or more blanks, as (gap before the phrase, phrase)."""
    gap, place = "", 0
    for match in _GAPS.finditer(body):
        yield gap, body[place : match.start()]
        gap, place = match[0], match.end()
    yield gap, body[place:]


class _OpenStyles:
    """Style and isolates that are open at a fold."""

    def __init__(self) -> None:
        self._style = ""
        self._isolates = 0

    def continued(self, row: str) -> str:
        """Return a row with the open styles of the previous row opened and all open styles closed at the end."""
        opening = self._style + FIRST_STRONG_ISOLATE * self._isolates
        for found in _STATES.findall(row):
            if found == FIRST_STRONG_ISOLATE:
                self._isolates += 1
            elif found == POP_ISOLATE:
                self._isolates -= bool(self._isolates)
            else:
                self._style = "" if found == RESET else found
        return f"{opening}{row}{POP_ISOLATE * self._isolates}{RESET if self._style else ''}"
