"""Lines folded to a width, measured in the columns that a terminal gives them. Pure: text in, text out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

from sinks.terminal.style import RESET

NARROWEST = 20  # columns; a line of token ids needs as much
_HANG = 2  # columns by which the rest of a line is indented
_STYLE = re.compile("\x1b\\[[0-9;]*m")
_GAPS = re.compile(" {2,}")
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
_STATES = re.compile(f"{_STYLE.pattern}|[{_FIRST_STRONG_ISOLATE}{_POP_ISOLATE}]")
_WITHOUT_COLUMN = frozenset({"Mn", "Me", "Cf"})
_SHAPED = frozenset({"AL", "AN"})  # the number signs of Arabic are format characters, and take their place
_JAMO = ((0x1160, 0x11FF), (0xD7B0, 0xD7FF))  # vowels and finals: drawn onto the letter before


def columns(text: str) -> int:
    """Count the columns of a text: two for a wide letter, none for what is drawn onto another, or for a style."""
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
    """Fold each line that is longer than a width where two blanks stand, or else between words.

    What follows is indented by two columns more than the line. Only a word that is longer than that stays too long.
    Styles and right-to-left text go on in the next line as they were.

    Args:
        text: lines.
        width: in columns.
    """
    return "\n".join(chain.from_iterable(_folded(line, width) for line in text.split("\n")))


def _folded(line: str, width: int) -> Iterator[str]:
    if columns(line) <= width:
        yield line
        return
    body = line.lstrip(" ")
    indent = len(line) - len(body)
    hang = " " * (indent + _HANG)
    state = _State()
    for index, row in enumerate(_rows(body.rstrip(" "), width, indent)):
        yield (hang if index else " " * indent) + state.carried(row)


def _rows(body: str, width: int, indent: int) -> Iterator[str]:
    """Yield the parts of a line, without their indents."""
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
    """Yield what stands between gaps of two blanks or more, each with the gap before it."""
    gap, place = "", 0
    for match in _GAPS.finditer(body):
        yield gap, body[place : match.start()]
        gap, place = match[0], match.end()
    yield gap, body[place:]


class _State:
    """The style and the isolates that are open where a line is folded."""

    def __init__(self) -> None:
        self._style = ""
        self._isolates = 0

    def carried(self, row: str) -> str:
        """Open in a row what the one before left open, and close what it leaves open itself."""
        opening = self._style + _FIRST_STRONG_ISOLATE * self._isolates
        for found in _STATES.findall(row):
            if found == _FIRST_STRONG_ISOLATE:
                self._isolates += 1
            elif found == _POP_ISOLATE:
                self._isolates -= bool(self._isolates)
            else:
                self._style = "" if found == RESET else found
        return f"{opening}{row}{_POP_ISOLATE * self._isolates}{RESET if self._style else ''}"
