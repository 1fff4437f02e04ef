"""Data made fit for a terminal: what it would obey or hide is escaped, every script passes. Pure: text in, text out."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

# Controls, format characters (bidi overrides, byte order marks, tags), surrogates, line and paragraph separators.
_OBEYED_OR_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters that belong to the spelling: the joiners of Persian, Indic scripts and emoji, and the number and
# verse signs of Arabic, Syriac and Kaithi, which have a shape of their own.
_SPELLING = frozenset(
    "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
_WITHOUT_ISOLATES = str.maketrans("", "", _FIRST_STRONG_ISOLATE + _POP_ISOLATE)


def printable(text: str) -> str:
    """Escape what a terminal would obey or hide.

    A text with right-to-left letters is isolated, so that it cannot reorder the line that it stands in.
    """
    if text.isascii() and text.isprintable():
        return text
    safe = "".join(map(_printable_character, text))
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in safe):
        return f"{_FIRST_STRONG_ISOLATE}{safe}{_POP_ISOLATE}"
    return safe


def _printable_character(character: str) -> str:
    if unicodedata.category(character) in _OBEYED_OR_HIDDEN and character not in _SPELLING:
        return character.encode("unicode_escape").decode("ascii")
    return character


def escaped(value: Any) -> Any:
    """Copy builtins with every string made `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(item) for item in value]
    return value


def encodable(text: str, encoding: str) -> str:
    """Escape what an encoding lacks; the isolates of `printable`, which are no data, are left out."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_WITHOUT_ISOLATES).encode(encoding, "backslashreplace").decode(encoding)
    return text
