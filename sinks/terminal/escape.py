"""Data escaped for a terminal. Control and invisible characters are escaped, every script passes. Pure functions.

Escaped characters:

- controls, and format characters such as bidi overrides, byte order marks, word joiners, soft hyphens and tags
- separators of lines and paragraphs, and surrogates
- fillers and other letters without a shape
- private use and unassigned code points, because their effect is unknown

Joiners and variation selectors pass if needed for the spelling of a script or an emoji. Blanks of any width pass, and
so does U+FFFD, the replacement for broken bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from types import NoneType
from typing import Any

import orjson

from sinks.terminal.style import FIRST_STRONG_ISOLATE, POP_ISOLATE

LONGEST = 1_000  # characters of one value on a terminal; the log file has the whole value
_DEEPEST = 20  # levels of nesting
_LEAST, _MOST = -(2**64), 2**64  # Python refuses to print much larger integers
_ATOMS = frozenset({NoneType, bool, int, float, str})
_ATOMS_AND_TUPLES = _ATOMS | {tuple}
_DELETE = b"\x7f"
_MOST_MARKS = 8  # on one letter, as Tibetan stacks; more marks overlap the neighbouring lines

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Format characters with a shape, namely number and verse signs of Arabic, Syriac and Kaithi.
_SHAPED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Letters and marks without a shape, namely combining grapheme joiner, Hangul fillers, inherent vowels of Khmer.
_SHAPELESS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_JOINERS = _ZWNJ, _ZWJ = "\u200c\u200d"
_VIRAMA = 9  # combining class of the marks before a joiner in Indic scripts
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_WITHOUT_ISOLATES = str.maketrans("", "", FIRST_STRONG_ISOLATE + POP_ISOLATE)
_UNKNOWN_ENCODING = "ascii"  # understood by every terminal

_Ranges = tuple[tuple[int, int], ...]
# Scripts in which a joiner changes the shape of a letter, such as Arabic, Indic scripts and Mongolian.
_JOINING: _Ranges = (
    (0x0600, 0x08FF),
    (0x0900, 0x0DFF),
    (0x1000, 0x109F),
    (0x1780, 0x18AF),
    (0x1A20, 0x1CFF),
    (0xA800, 0xABFF),
    (0xFB50, 0xFDFF),
    (0xFE70, 0xFEFC),
    (0x10A00, 0x11FFF),
    (0x1E900, 0x1E95F),
)
_MONGOLIAN: _Ranges = ((0x1820, 0x18AA),)
_IDEOGRAPHS: _Ranges = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_PICTOGRAPHS: _Ranges = (
    (0x2190, 0x2BFF),
    (0x1F000, 0x1FAFF),
)  # unassigned code points of the second range are future emoji
_NEW_EMOJI: _Ranges = (_PICTOGRAPHS[1],)
_HANGUL: _Ranges = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xAC00, 0xD7FF))
_LATE_JAMO: _Ranges = ((0x1161, 0x11FF), (0xD7B0, 0xD7FF))  # vowels and finals, drawn onto the previous letter


def _within(character: str, ranges: _Ranges) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def printable(text: str, *, longest: int = LONGEST) -> str:
    r"""Return a text with control and invisible characters escaped, cut to `longest` characters.

    A text with right-to-left letters is isolated (UAX #9), so that the text cannot reorder the rest of its line.

    Example:
        >>> printable("\x1b[2Jgone"), printable("日本語"), printable("a" * 1_200)[1_000:]
        ('\\x1b[2Jgone', '日本語', '... (200 more characters)')
    """
    rest = len(text) - longest
    if rest > 0:
        return f"{_printable(text[:longest])}... ({rest:,} more characters)"
    return text if text.isascii() and text.isprintable() else _printable(text)


def _printable(text: str) -> str:
    safe = "".join(_safe_characters(text))
    if any(_traits(character)[1] for character in safe):
        return f"{FIRST_STRONG_ISOLATE}{safe}{POP_ISOLATE}"
    return safe


def _safe_characters(text: str) -> list[str]:
    safe: list[str] = []
    before, marks = "", 0  # previous character if shown unescaped; marks on the present letter
    for index, character in enumerate(text):
        kind = _traits(character)[0]
        marks = marks + 1 if kind in (_MARK, _JAMO) else marks if kind == _CONTEXT else 0
        if kind == _PLAIN:
            passes = True
        elif kind == _MARK:
            passes = bool(before) and marks <= _MOST_MARKS
        elif kind == _JAMO:
            passes = bool(before) and marks <= _MOST_MARKS and _within(before, _HANGUL)
        elif kind == _CONTEXT:
            passes = bool(before) and _is_spelling(character, before, text[index + 1 : index + 2])
        else:
            passes = False
        safe.append(character if passes else character.encode("unicode_escape").decode("ascii"))
        before = character if passes else ""
    return safe


_PLAIN, _MARK, _JAMO, _CONTEXT, _HIDDEN = range(5)


@lru_cache(maxsize=4096)
def _traits(character: str) -> tuple[int, bool]:
    """Return the kind of a character, and True if the character runs from right to left."""
    return _kind(character), unicodedata.bidirectional(character) in _RIGHT_TO_LEFT


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if character in _JOINERS or _is_variation(character):
        return _CONTEXT
    if character in _SHAPED or (category == "Cn" and _within(character, _NEW_EMOJI)):
        return _PLAIN
    if category in _HIDDEN_CATEGORIES or character in _SHAPELESS:
        return _HIDDEN
    if category[0] == "M":
        return _MARK
    return _JAMO if _within(character, _LATE_JAMO) else _PLAIN


def _is_variation(character: str) -> bool:
    return _within(character, ((0x180B, 0x180D), (0x180F, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF)))


def _is_spelling(character: str, before: str, after: str) -> bool:
    """Return True if the spelling of a script or an emoji needs a joiner or a variation selector at this place."""
    if character in _JOINERS:
        return _joins(character, before, after)
    if "\u180b" <= character <= "\u180f":
        return _within(before, _MONGOLIAN)
    if character in "\ufe0e\ufe0f":  # drawn as text, drawn as emoji
        return unicodedata.category(before) in {"So", "Sm", "Po", "Pd", "Nd"} or before == "\u2139"
    return _within(before, _IDEOGRAPHS) or (character == "\ufe00" and unicodedata.category(before) == "Sm")


def _joins(joiner: str, before: str, after: str) -> bool:
    if _is_joined(before):
        at_the_end = unicodedata.combining(before) == _VIRAMA or (
            joiner == _ZWJ and unicodedata.bidirectional(before) == "AL"
        )
        return at_the_end or (bool(after) and _is_joined(after))
    pictograph = _within(before, _PICTOGRAPHS) or before == "\ufe0f"
    return joiner == _ZWJ and pictograph and bool(after) and _within(after, _PICTOGRAPHS)


def _is_joined(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM" and _within(character, _JOINING)


def printable_lines(text: str) -> str:
    r"""Return a text of several lines with each line made `printable`.

    Example:
        >>> printable_lines("saved\nwith a\ttab")
        'saved\nwith a\\ttab'
    """
    return "\n".join(map(printable, text.split("\n")))


def escaped(record: Mapping[Any, Any]) -> dict[str, Any]:
    r"""Return a copy of a record with every key and string made `printable`, and every other object as its `repr`.

    Example:
        >>> escaped({"event": "checkpoint", "path": "a\nb", "step": 20})
        {'event': 'checkpoint', 'path': 'a\\nb', 'step': 20}
    """
    if type(record) is dict and _needs_nothing(record):  # nearly all records, in a third of the time
        return {key: item if type(item) in _ATOMS else _copied(item) for key, item in record.items()}
    return _escaped_mapping(record, 1)


def _needs_nothing(record: dict[Any, Any]) -> bool:
    """Return True if every text and key of a record is short printable ASCII. The check runs in C."""
    try:
        line = orjson.dumps(record)
    except TypeError:
        return False
    plain = line.isascii() and b"\\" not in line and _DELETE not in line  # JSON escapes the other controls
    return plain and max(map(len, line.split(b'"'))) <= LONGEST


def _copied(item: Any) -> Any:
    """Copy a value of a record whose texts need no escape. Types that JSON writes as another type are escaped."""
    kind = type(item)
    if kind is tuple and _ATOMS.issuperset(map(type, item)):
        return list(item)
    if kind is dict and _ATOMS_AND_TUPLES.issuperset(map(type, item.values())):
        return {key: value if type(value) in _ATOMS else _copied(value) for key, value in item.items()}
    return _escaped(item, 1)


def _escaped(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and _LEAST <= value <= _MOST):
        return value
    if isinstance(value, str):
        return printable(str.__str__(value))
    if isinstance(value, (Mapping, list, tuple)):
        if depth > _DEEPEST:
            return "..."
        if isinstance(value, Mapping):
            return _escaped_mapping(value, depth + 1)
        return [_escaped(item, depth + 1) for item in value]
    return printable(_text(value))


def _escaped_mapping(mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    copy: dict[str, Any] = {}
    for key, item in mapping.items():
        name = printable(key if isinstance(key, str) else _text(key))
        while name in copy:  # two keys with the same escaped form
            name += "'"
        copy[name] = _escaped(item, depth)
    return copy


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - any exception of a third-party object's repr, or an integer of 5,000 digits
        return f"<{type(value).__name__}>"


def known_encoding(name: object) -> str:
    """Return the name of a codec that encodes text. Without a name UTF-8, for an unknown codec ASCII.

    Example:
        >>> known_encoding("latin-1"), known_encoding(None), known_encoding("klingon")
        ('latin-1', 'utf-8', 'ascii')
    """
    if name is None:
        return "utf-8"
    try:
        " ".encode(str(name))
    except (LookupError, ValueError):
        return _UNKNOWN_ENCODING
    return str(name)


def encodable_text(text: str, encoding: str) -> str:
    r"""Return a text with characters that an encoding lacks escaped, and with the isolates of `printable` removed.

    Letters on the bytes of the C1 controls are escaped too. In cp1252 byte 0x9B is a closing quotation mark, and
    terminals read byte 0x9B as the begin of a control sequence.

    Example:
        >>> encodable_text("é مرحبا", "latin-1")
        'é \\u0645\\u0631\\u062d\\u0628\\u0627'
    """
    if text.isascii():
        return text
    letters = _letters_on_controls(encoding)
    text = text.translate(letters) if letters else text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_WITHOUT_ISOLATES).encode(encoding, "backslashreplace").decode(encoding)
    return text


@lru_cache(maxsize=8)
def _letters_on_controls(encoding: str) -> Mapping[int, str]:
    letters: dict[int, str] = {}
    for byte in range(0x80, 0xA0):
        try:
            letter = bytes([byte]).decode(encoding)
        except UnicodeDecodeError:  # unassigned, or the first byte of several
            continue
        if len(letter) == 1 and letter > "\x9f":
            letters[ord(letter)] = letter.encode("unicode_escape").decode("ascii")
    return letters
