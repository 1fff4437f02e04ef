"""Classes of characters in tables, for many texts at once."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_SCRIPT_RANGES = (
    (0x0041, 0x024F, "Latin"),
    (0x0250, 0x02AF, "Latin"),
    (0x0300, 0x036F, ""),  # marks of any script
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0530, 0x058F, "Armenian"),
    (0x0590, 0x05FF, "Hebrew"),
    (0x0600, 0x06FF, "Arabic"),
    (0x0700, 0x074F, "Syriac"),
    (0x0750, 0x077F, "Arabic"),
    (0x0780, 0x07BF, "Thaana"),
    (0x07C0, 0x07FF, "Nko"),
    (0x0860, 0x08FF, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x09FF, "Bengali"),
    (0x0A00, 0x0A7F, "Gurmukhi"),
    (0x0A80, 0x0AFF, "Gujarati"),
    (0x0B00, 0x0B7F, "Oriya"),
    (0x0B80, 0x0BFF, "Tamil"),
    (0x0C00, 0x0C7F, "Telugu"),
    (0x0C80, 0x0CFF, "Kannada"),
    (0x0D00, 0x0D7F, "Malayalam"),
    (0x0D80, 0x0DFF, "Sinhala"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x0E80, 0x0EFF, "Lao"),
    (0x0F00, 0x0FFF, "Tibetan"),
    (0x1000, 0x109F, "Myanmar"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x1100, 0x11FF, "Hangul"),
    (0x1200, 0x139F, "Ethiopic"),
    (0x13A0, 0x13FF, "Cherokee"),
    (0x1400, 0x167F, "Canadian Aboriginal"),
    (0x1780, 0x17FF, "Khmer"),
    (0x1800, 0x18AF, "Mongolian"),
    (0x1C80, 0x1C8F, "Cyrillic"),
    (0x1C90, 0x1CBF, "Georgian"),
    (0x1E00, 0x1EFF, "Latin"),
    (0x1F00, 0x1FFF, "Greek"),
    (0x2C60, 0x2C7F, "Latin"),
    (0x2D00, 0x2D2F, "Georgian"),
    (0x2D30, 0x2D7F, "Tifinagh"),
    (0x2D80, 0x2DDF, "Ethiopic"),
    (0x2DE0, 0x2DFF, "Cyrillic"),
    (0x3005, 0x3007, "Han"),
    (0x3040, 0x309F, "Japanese"),
    (0x30A0, 0x30FF, "Japanese"),
    (0x3100, 0x312F, "Bopomofo"),
    (0x3130, 0x318F, "Hangul"),
    (0x31F0, 0x31FF, "Japanese"),
    (0x3400, 0x9FFF, "Han"),
    (0xA640, 0xA69F, "Cyrillic"),
    (0xA720, 0xA7FF, "Latin"),
    (0xAA60, 0xAA7F, "Myanmar"),
    (0xAB00, 0xAB2F, "Ethiopic"),
    (0xAC00, 0xD7FF, "Hangul"),
    (0xF900, 0xFAFF, "Han"),
    (0xFB00, 0xFB06, "Latin"),
    (0xFB1D, 0xFB4F, "Hebrew"),
    (0xFB50, 0xFDFF, "Arabic"),
    (0xFE70, 0xFEFC, "Arabic"),
    (0xFF21, 0xFF5A, "Latin"),
    (0xFF66, 0xFF9F, "Japanese"),
    (0x1E900, 0x1E95F, "Adlam"),
    (0x20000, 0x323AF, "Han"),
)
#: Names of the scripts. Letters of the first script have no script of their own.
SCRIPTS = ("none", *sorted({name for _, _, name in _SCRIPT_RANGES if name}), "other")
_NUMBERS = {name: number for number, name in enumerate(SCRIPTS)}
_LAST = 0x10FFFF
_LETTERS_OF_A_DIGIT = 4  # of its name
_SPACES = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85")  # controls that are white space
_VISIBLE_FORMAT = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")  # signs of numbers
_REPLACEMENT = 0xFFFD  # stands for bytes that could not be decoded


# Bits of an entry of the table; the lower bits are the number of the script.
_DIGIT, _SPACE, _SUSPICIOUS = np.uint16(0x100), np.uint16(0x200), np.uint16(0x400)
_SCRIPT_BITS = np.uint16(0xFF)


@cache
def _table() -> npt.NDArray[np.uint16]:
    """Return the classes of each code point: the script of a letter, and bits."""
    categories = np.array([unicodedata.category(chr(point)) for point in range(_LAST + 1)])
    is_letter = np.isin(categories, ("Lu", "Ll", "Lt", "Lo", "Lm"))
    script = np.full(len(categories), _NUMBERS["other"], dtype=np.uint16)
    for first, last, name in _SCRIPT_RANGES:
        script[first : last + 1] = _NUMBERS[name or "other"]
    is_space = np.isin(categories, ("Zs", "Zl", "Zp"))
    is_space[[ord(space) for space in _SPACES]] = True
    is_suspicious = np.isin(categories, ("Cc", "Cf", "Cs", "Co")) & ~is_space  # "Cn" may be a letter of a later Unicode
    is_suspicious[0xFDD0:0xFDF0] = is_suspicious[0xFFFE::0x10000] = is_suspicious[0xFFFF::0x10000] = True
    is_suspicious[[ord(sign) for sign in _VISIBLE_FORMAT]] = False
    is_suspicious[_REPLACEMENT] = True
    table = np.where(is_letter, script, np.uint16(0))
    table |= _DIGIT * np.char.startswith(categories, "N") | _SPACE * is_space | _SUSPICIOUS * is_suspicious
    return table


def script_of(character: str) -> str:
    """Return the script of a letter, "none" for another character.

    Example:
        >>> script_of("a"), script_of("\u0430"), script_of("7")
        ('Latin', 'Cyrillic', 'none')
    """
    return SCRIPTS[_table()[ord(character)] & _SCRIPT_BITS]


def is_suspicious(character: str) -> bool:
    """Return True for a control, an invisible character, and the replacement of undecodable bytes.

    Example:
        >>> is_suspicious("\u200b"), is_suspicious("a")
        (True, False)
    """
    return bool(_table()[ord(character)] & _SUSPICIOUS)


class TextClasses(NamedTuple):
    """Classes of the characters of N texts.

    Attributes:
        characters: Number of letters and digits, int64 [N].
        length: Number of letters to read, with four letters for each digit, int64 [N].
        script: Number of the script of most letters, 0 without letters, int64 [N].
        is_mixed: True if letters of two of the scripts Latin, Greek and Cyrillic are in the text, bool [N].
        is_suspicious: True if a control or an invisible character is in the text, bool [N].
        has_double_space: True if two white spaces stand side by side in a line, bool [N].
    """

    characters: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    script: npt.NDArray[np.int64]
    is_mixed: npt.NDArray[np.bool_]
    is_suspicious: npt.NDArray[np.bool_]
    has_double_space: npt.NDArray[np.bool_]


def classify(texts: Sequence[str]) -> TextClasses:
    """Return the classes of the characters of texts. Kana make a text with Han characters Japanese.

    Example:
        >>> classes = classify(["Hi  there", "\u4e00\u3042", "\u200b"])
        >>> [SCRIPTS[number] for number in classes.script], classes.characters.tolist()
        (['Latin', 'Japanese', 'none'], [7, 2, 0])
        >>> classes.has_double_space.tolist(), classes.is_suspicious.tolist()
        ([True, False, False], [False, False, True])
    """
    count, joined = len(texts), "\n".join((*texts, ""))  # a newline after each text separates the texts
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    classes = _table()[points]
    rows = np.repeat(np.arange(count, dtype=np.int64), [len(text) + 1 for text in texts])
    scripts = np.bincount(rows * len(SCRIPTS) + (classes & _SCRIPT_BITS), minlength=count * len(SCRIPTS))
    scripts_NS = scripts.reshape(count, len(SCRIPTS))
    scripts_NS[:, 0] = 0  # no letters
    letters = scripts_NS.sum(axis=1)
    japanese, han = scripts_NS[:, _NUMBERS["Japanese"]], scripts_NS[:, _NUMBERS["Han"]]
    japanese += np.where(japanese > 0, han, 0)
    alike = np.count_nonzero(scripts_NS[:, [_NUMBERS[name] for name in ("Latin", "Greek", "Cyrillic")]], axis=1)
    digits = _count(rows, (classes & _DIGIT) > 0, count)
    is_blank = ((classes & _SPACE) > 0) & (points != ord("\n"))
    return TextClasses(
        characters=letters + digits,
        length=letters + _LETTERS_OF_A_DIGIT * digits,
        script=scripts_NS.argmax(axis=1),
        is_mixed=alike > 1,
        is_suspicious=_count(rows, (classes & _SUSPICIOUS) > 0, count) > 0,
        has_double_space=_count(rows[1:], is_blank[1:] & is_blank[:-1], count) > 0,
    )


def _count(rows: npt.NDArray[np.int64], holds: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.int64]:
    return np.bincount(rows[holds], minlength=count)
