"""Data made fit for a terminal: what it would obey or hide is escaped, every script passes. Pure: text in, text out.

What a reader cannot see is shown as an escape: controls; format characters (bidi overrides and isolates, byte order
marks, word joiners, soft hyphens, tags); separators of lines and paragraphs; surrogates; fillers and other letters
without a shape; private use and unassigned code points, of which nobody knows what they do. Joiners and variation
selectors pass where a script or an emoji is spelt with them, and are escaped where they only hide. Blanks of any width
pass, for they take their place on the line; so does what a decoder writes for broken bytes, U+FFFD.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from types import NoneType
from typing import Any

import orjson

LONGEST = 1_000  # characters of one value; more is a flood, and the file has it
_DEEPEST = 20  # levels of nesting
_LEAST, _MOST = -(2**64), 2**64  # integers beyond have more digits than Python writes, or than anyone reads
_ATOMS = frozenset({NoneType, bool, int, float, str})
_ATOMS_AND_TUPLES = _ATOMS | {tuple}
_DELETE = b"\x7f"
_MOST_MARKS = 8  # on one letter: Tibetan stacks as many; more climb over the neighbouring lines

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Format characters with a shape of their own: the number and verse signs of Arabic, Syriac and Kaithi.
_SHAPED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Letters and marks without one: combining grapheme joiner, fillers of Hangul, inherent vowels of Khmer.
_SHAPELESS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_JOINERS = _ZWNJ, _ZWJ = "\u200c\u200d"
_VIRAMA = 9  # combining class of the marks after which Indic scripts write a joiner
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
_WITHOUT_ISOLATES = str.maketrans("", "", _FIRST_STRONG_ISOLATE + _POP_ISOLATE)
_UNKNOWN_ENCODING = "ascii"  # every terminal understands it

_Ranges = tuple[tuple[int, int], ...]
# Scripts in which a joiner changes a letter's shape: Arabic and its like, the Indic family, Mongolian.
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
_PICTOGRAPHS: _Ranges = ((0x2190, 0x2BFF), (0x1F000, 0x1FAFF))  # in the second one unassigned ones are to be emoji
_NEW_EMOJI: _Ranges = (_PICTOGRAPHS[1],)
_HANGUL: _Ranges = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xAC00, 0xD7FF))
_LATE_JAMO: _Ranges = ((0x1161, 0x11FF), (0xD7B0, 0xD7FF))  # vowels and finals: drawn onto the letter before


def _within(character: str, ranges: _Ranges) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def printable(text: str, *, longest: int = LONGEST) -> str:
    """Escape what a terminal would obey or hide, and cut what is longer than `longest` characters.

    A text with right-to-left letters is isolated, so that it cannot reorder the line that it stands in.
    """
    rest = len(text) - longest
    if rest > 0:
        return f"{_printable(text[:longest])}... ({rest:,} more characters)"
    return text if text.isascii() and text.isprintable() else _printable(text)


def _printable(text: str) -> str:
    safe = "".join(_safe_characters(text))
    if any(_traits(character)[1] for character in safe):
        return f"{_FIRST_STRONG_ISOLATE}{safe}{_POP_ISOLATE}"
    return safe


def _safe_characters(text: str) -> list[str]:
    safe: list[str] = []
    before, marks = "", 0  # the character before if it was shown as it is, and how many marks its letter carries
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
    """Tell how a character is treated, and whether it runs from right to left."""
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
    """Whether a joiner or a variation selector stands where a script or an emoji needs it: not in a chain of them."""
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
    """Make each line of a text `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def escaped(record: Mapping[Any, Any]) -> dict[str, Any]:
    """Copy a record with every string made `printable`; what is no builtin becomes the text of it."""
    if type(record) is dict and _needs_nothing(record):  # nearly all: a third of the time
        return {key: item if type(item) in _ATOMS else _copied(item) for key, item in record.items()}
    return _escaped_mapping(record, 1)


def _needs_nothing(record: dict[Any, Any]) -> bool:
    """Tell, in C, that no text or key of a record holds more than short ASCII that can be printed."""
    try:
        line = orjson.dumps(record)
    except TypeError:
        return False
    plain = line.isascii() and b"\\" not in line and _DELETE not in line  # JSON escapes the other controls
    return plain and max(map(len, line.split(b'"'))) <= LONGEST


def _copied(item: Any) -> Any:
    """Copy a value of a record that needs nothing; what JSON writes as another type is looked at more closely."""
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
        while name in copy:  # two keys that differ only in what is escaped
            name += "'"
        copy[name] = _escaped(item, depth)
    return copy


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - whatever a third party's object raises, or an integer of 5,000 digits
        return f"<{type(value).__name__}>"


def known_encoding(name: object) -> str:
    """Name a codec that can encode text: the given one, UTF-8 where none is given, ASCII where it is unknown."""
    if name is None:
        return "utf-8"
    try:
        " ".encode(str(name))
    except (LookupError, ValueError):
        return _UNKNOWN_ENCODING
    return str(name)


def encodable(text: str, encoding: str) -> str:
    """Escape what an encoding lacks; the isolates of `printable`, which are no data, are left out.

    A letter that an 8-bit encoding puts where terminals have their C1 controls is escaped too: in cp1252 a closing
    quotation mark is byte 0x9B, which begins a control sequence.
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
        except UnicodeDecodeError:  # nothing, or the first byte of many
            continue
        if len(letter) == 1 and letter > "\x9f":
            letters[ord(letter)] = letter.encode("unicode_escape").decode("ascii")
    return letters
