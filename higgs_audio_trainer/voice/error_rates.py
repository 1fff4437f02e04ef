"""Error rates of a transcript against the text that was to be spoken: jiwer, on normalised texts. Torch-free."""

from __future__ import annotations

import re
from typing import NamedTuple
from unicodedata import category, normalize

_APOSTROPHES = "'\u2018\u2019\u02bc\uff07"  # within a word; other punctuation separates words
_INVISIBLE = ("Cc", "Cf")  # soft hyphens, marks of direction, joiners
#: Letters of scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACE_BESIDE_UNSPACED = re.compile(rf"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])")


class ErrorRates(NamedTuple):
    """Error rates of a transcript. None if the text has no letter or digit. Insertions may make a rate exceed 1.

    Attributes:
        cer: Edits of characters over the characters of the text. A space between words is a character.
        wer: Edits of words over the words of the text. Words are separated by spaces, so that a stretch of a script
            without spaces, such as Chinese or Thai, is one word.
    """

    cer: float | None
    wer: float | None


def error_rates(text: str, transcript: str) -> ErrorRates:
    """Return the error rates of a transcript. Both texts are normalised first, see `normalized`.

    Args:
        text: Text that was to be spoken.
        transcript: Text that a recognizer heard. Without any, both rates are 1.

    Example:
        >>> error_rates("Good day!", "good way")
        ErrorRates(cer=0.125, wer=0.5)
        >>> error_rates("...", "oh")
        ErrorRates(cer=None, wer=None)
    """
    import jiwer

    expected, heard = normalized(text), normalized(transcript)
    if not expected:
        return ErrorRates(None, None)
    return ErrorRates(float(jiwer.cer(expected, heard)), float(jiwer.wer(expected, heard)))


def normalized(text: str) -> str:
    """Return a text without what a recognizer cannot hear or spells in its own way, the same for all languages.

    Unicode NFKC and case folding. Apostrophes and invisible characters are removed. Punctuation separates words, which
    are joined by single spaces. Letters of scripts without spaces, such as Chinese or Thai, have no space beside them.
    Accents, vowel signs and symbols stay, and numbers stay as they are written.

    Args:
        text: Any text.

    Example:
        >>> normalized(" L\u2019\u00c9t\u00e9 \u2013 Stra\u00dfe,  well-known!")
        'l\u00e9t\u00e9 strasse well known'
        >>> normalized("\u4f60\u597d\uff0c \u4e16\u754c\u3002")
        '\u4f60\u597d\u4e16\u754c'
    """
    # Case folding may decompose letters, and NFKC of the result may have letters to fold.
    folded = normalize("NFKC", normalize("NFKC", normalize("NFKC", text).casefold()).casefold())
    spaced = " ".join("".join(map(_heard, folded)).split())
    return _SPACE_BESIDE_UNSPACED.sub("", spaced)


def _heard(character: str) -> str:
    if character.isspace():
        return " "
    kind = category(character)
    if character in _APOSTROPHES or kind in _INVISIBLE:
        return ""
    return " " if kind.startswith("P") else character
