"""Faults of a text, such as characters without a sound and words of look-alike letters."""

from __future__ import annotations

import re
import unicodedata

from higgs_audio_trainer.data.audit.characters import is_suspicious, script_of

_ZWNJ, _ZWJ, _ZWSP, _BOM = "\u200c", "\u200d", "\u200b", "\ufeff"
_MARKS_OF_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_RIGHT_TO_LEFT = frozenset(("Arabic", "Hebrew", "Syriac", "Thaana", "Nko", "Adlam"))
_WITHOUT_SPACES = frozenset(("Khmer", "Thai", "Lao", "Myanmar", "Tibetan"))  # whose words a zero-width space separates
_JOINED = frozenset(  # scripts whose letters change their form beside a joiner
    (
        *("Arabic", "Syriac", "Mongolian", "Nko", "Adlam", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya"),
        *("Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Khmer", "Myanmar", "Tibetan"),
    )
)
_EMOJI = re.compile("[\u00a9\u00ae\u203c-\u3299\ufe0f\U0001f000-\U0001faff]")
_FLAG_TAGS = re.compile("\U0001f3f4[\U000e0020-\U000e007f]+")  # a flag of England, Scotland or Wales
_VARIATIONS = re.compile("[\ufe00-\ufe0f]")
_ALIKE = frozenset(("Cyrillic", "Greek", "Latin"))
_CONTROL_TOKEN = re.compile(r"<\|[^<>|\n]+\|>")
_SPACED_CONTROL_TOKEN = re.compile(rf"(?<= ){_CONTROL_TOKEN.pattern} |{_CONTROL_TOKEN.pattern}")
_WORD = re.compile(r"[^\W\d_]+")
#: Letters that look like a letter of another of the scripts Latin, Greek and Cyrillic.
_LOOK_ALIKE = frozenset(
    "acehijkopsuvxyABCEHIJKMNOPSTXYZ"
    "\u03b1\u03b3\u03b9\u03ba\u03bd\u03bf\u03c1\u03c3\u03c4\u03c5\u03c7\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c"
    "\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u0430\u0432\u0433\u0435\u043a\u043c\u043d\u043e\u043f\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458\u04bb\u04cf"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408\u04ae"
)


def control_tokens(text: str) -> list[str]:
    """Return the different control tokens of a text, such as `<|emotion:joy|>`, in the order of the text.

    Example:
        >>> control_tokens("<|emotion:joy|>Is a <| b |> c? <|sfx:sigh|><|emotion:joy|>")
        ['<|emotion:joy|>', '<| b |>', '<|sfx:sigh|>']
    """
    return list(dict.fromkeys(_CONTROL_TOKEN.findall(text))) if "<|" in text else []


def without_control_tokens(text: str) -> str:
    """Return a text without its control tokens, which are not spoken, and without one of two spaces around each.

    Example:
        >>> without_control_tokens("<|emotion:joy|> Good <|prosody:pause|>morning <|sfx:sigh|> Ann.")
        'Good morning Ann.'
    """
    return _SPACED_CONTROL_TOKEN.sub("", text).strip() if "<|" in text else text


def soundless_characters(text: str) -> list[str]:
    r"""Return the different control and invisible characters of a text that the text's script does not need.

    Joiners belong to Arabic and Indic letters and to emoji, marks of direction to texts from right to left, and
    zero-width spaces to scripts without spaces between words.

    Example:
        >>> soundless_characters("a\u200bb\x07"), soundless_characters("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647")
        (['\x07', '\u200b'], [])
    """
    text = _FLAG_TAGS.sub("", text)
    scripts = {script_of(character) for character in text}
    found = set()
    for index, character in enumerate(text):
        if not is_suspicious(character):
            continue
        before = _VARIATIONS.sub("", text[:index])[-1:]
        if character in (_ZWJ, _ZWNJ) and (_script_before(text, index) in _JOINED or _EMOJI.match(before)):
            continue
        if character in _MARKS_OF_DIRECTION and scripts & _RIGHT_TO_LEFT:
            continue
        if character == _ZWSP and _script_before(text, index) in _WITHOUT_SPACES:
            continue
        found.add(character)
    return sorted(found)


def _script_before(text: str, index: int) -> str:
    """Return the script of the last letter before a place, or "none" without a letter in the word so far."""
    for character in reversed(text[:index]):
        if character.isspace():
            break
        if (script := script_of(character)) != "none":
            return script
    return "none"


def name_of(character: str) -> str:
    r"""Return the code point and the name of a character.

    Example:
        >>> name_of("\u200b"), name_of("\x07")
        ('U+200B ZERO WIDTH SPACE', 'U+0007')
    """
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def look_alike_word(text: str) -> str | None:
    r"""Return the first word with look-alike letters of another script, and these letters. None without such a word.

    The word mixes Latin, Greek and Cyrillic letters, and all letters of one of these scripts look like letters of
    another. A brand with an ending in another script has letters of each script that look like no other. A quantity has
    a Greek letter before at least as many Latin letters.

    Example:
        >>> look_alike_word("p\u0430ypal").encode("ascii", "replace"), look_alike_word("iPhone\u044b")
        (b'p?ypal with U+0430 CYRILLIC SMALL LETTER A', None)
        >>> look_alike_word("\u0394x = 5") is None
        True
    """
    for word in _WORD.findall(text):
        of_script: dict[str, str] = {}
        for letter in word:
            script = script_of(letter)
            of_script[script] = of_script.get(script, "") + letter
        if len(of_script.keys() & _ALIKE) > 1:
            mixed_in = [
                of_script[script] for script in _ALIKE & of_script.keys() if _LOOK_ALIKE.issuperset(of_script[script])
            ]
            fewest = min(mixed_in, key=len, default="")
            is_quantity = "Greek" in of_script and 2 * len(fewest) >= len(word)
            if fewest and not is_quantity:
                return f"{word} with {', '.join(map(name_of, dict.fromkeys(fewest)))}"
    return None
