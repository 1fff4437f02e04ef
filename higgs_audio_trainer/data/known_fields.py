"""Known fields of a manifest's objects, and the treatment of all other fields.

1. A known field, or another spelling of a known field, is read.
2. An unknown field that may change what is heard or said is a problem of the line.
3. Any other unknown field is a note. Notes are listed once, with the nearest known field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from higgs_audio_trainer.data.fields import BadField, Fields, LineProblems, show, show_key
from higgs_audio_trainer.data.spellings import (
    AUDIO_WORDS,
    CHANNEL,
    CODES_WORDS,
    END_WORDS,
    NAMES,
    NORMALIZED,
    NOTE_WORDS,
    NOTES,
    PROMPT_WORDS,
    RECORDINGS,
    REFERENCE,
    REFERENCE_WORDS,
    SILENT,
    SPEECH,
    START_WORDS,
    STRETCH,
    SYSTEM_WORDS,
    TEXT_WORDS,
    TIME_WORDS,
    TIMES,
    UNITS,
    VOICE_WORDS,
    WEIGHT_WORDS,
    WEIGHTS,
    Table,
)

ONE_CHANNEL = "audio with this channel alone"
_SHORTEST_TYPO = 4  # letters; shorter names are near too many words
_SURE_TYPO, _TYPO, _NEAR = 0.9, 0.8, 0.75  # least similarities, as for `difflib.get_close_matches`


@dataclass(frozen=True, eq=False)
class KnownFields:
    """Known fields of a kind of object.

    Attributes:
        table: Other spellings by known field.
        sounding: Words of unknown fields that are a problem, and what to use instead.
    """

    table: Table
    sounding: Mapping[str, str]

    def read(
        self, entry: Mapping[str, Any], at: str, problems: LineProblems, settled: frozenset[str] = frozenset()
    ) -> Fields:
        """Return the known fields of an object under their own names, and report all other fields.

        Args:
            entry: Object of a manifest line. Null counts as absent.
            at: Place of the object in the line, with a dot behind.
            problems: Report of the line.
            settled: Known fields for which no unknown field can stand. Unknown fields near to these are notes.
        """
        fields = Fields(at)
        for name, value in sorted(entry.items(), key=lambda item: item[0] not in self.table):  # the known names first
            if value is None:
                continue
            known = self.known(name)
            try:  # not `problems.collected()`, which takes a third of the time for a large manifest
                if known is None:
                    self._judge(name, value, at, problems, settled)
                else:
                    _add(fields, known, name, value, problems)
            except BadField as bad:
                problems.add(bad)
        return fields

    @lru_cache(maxsize=4_096)  # noqa: B019 - there are four tables
    def known(self, name: str) -> str | None:
        """Return the known field of a name, or None."""
        word = _snake_case(name)
        found = next((known for known, others in self.table.items() if word == known or word in others), None)
        if found is None and (unit := _unit(word)):
            found = next(
                (time for time in TIMES & self.table.keys() if self.known(word.removesuffix(unit)) == time), None
            )
        return found

    @lru_cache(maxsize=4_096)  # noqa: B019 - there are four tables
    def nearest(self, name: str) -> tuple[str, bool]:
        """Return the known field nearest to an unknown name, and True if the field may change what is heard or said.

        The nearest field is empty for a name without any likeness.
        """
        word = _snake_case(name)
        words = word.split("_")
        fields = {spelling: known for known, others in self.table.items() for spelling in (known, *others)}
        sounding = {spelling: known for spelling, known in fields.items() if known not in SILENT}
        if word in NOTES:
            return "", False
        if near := _nearest(word, sounding, _SURE_TYPO):
            return near, True
        if not NOTE_WORDS.isdisjoint(words):
            return "", False
        if near := _nearest(word, sounding, _TYPO):
            return near, True
        instead = next((instead for key, instead in self.sounding.items() if key in words), "")
        return instead or _nearest(word, fields, _NEAR), bool(instead)

    def _judge(self, name: str, value: Any, at: str, problems: LineProblems, settled: frozenset[str]) -> None:
        """Note an unknown field, or raise `BadField` if the field may change what is heard or said."""
        if value in ("", [], {}):
            return
        near, sounds = self.nearest(name)
        words = _snake_case(name).split("_")
        is_recording = isinstance(value, str) and value.lower().endswith(RECORDINGS)
        if words[0] == CHANNEL and isinstance(value, (int, list)):
            near, sounds = ONE_CHANNEL, True
        elif isinstance(value, bool):
            sounds = sounds and not WEIGHTS.isdisjoint(words)
        elif isinstance(value, (int, float)):
            sounds = sounds and (near in TIMES or near == "start_index" or not TIME_WORDS.isdisjoint(words))
        elif is_recording and not VOICE_WORDS.isdisjoint(words):
            near, sounds = "ref_audio", True
        if sounds and (near not in settled or (near in ("ref_audio", _PART) and is_recording)):
            raise BadField(
                f"{at}{show_key(name)}",
                f"a known field (nearest: {near})",
                "an unknown field about sound or text. Rename or remove the field",
            )
        problems.unused.add((_anywhere(f"{at}{name}"), near))


def _by_word(words: Mapping[str, list[str]]) -> Mapping[str, str]:
    return {word: instead for instead, listed in words.items() for word in listed}


_PART = "audio_url in the content of a message"
_CONTENT = "content of a message"
_SYSTEM, _SYSTEM_MESSAGE = "messages with a system turn", "a message of role system"
#: A line in the simple form.
SIMPLE_LINE = KnownFields(
    {**NAMES, **SPEECH, **REFERENCE, **STRETCH},
    _by_word(
        {
            "ref_audio": REFERENCE_WORDS,
            "offset": START_WORDS,
            "end": END_WORDS,
            "codes": CODES_WORDS,
            "audio": AUDIO_WORDS,
            "text": TEXT_WORDS,
            "messages": PROMPT_WORDS,
            _SYSTEM: SYSTEM_WORDS,
        }
    ),
)
#: A line with messages.
CHATML_LINE = KnownFields(
    {**NAMES, "messages": (), "start_index": (), "misc": ()},
    _by_word(
        {
            _PART: [*REFERENCE_WORDS, *AUDIO_WORDS, *CODES_WORDS],
            "offset in the content of a message": [*START_WORDS, *END_WORDS],
            _CONTENT: [*TEXT_WORDS, "scene"],
            "messages": PROMPT_WORDS,
            _SYSTEM_MESSAGE: SYSTEM_WORDS,
            "start_index": WEIGHT_WORDS,
        }
    ),
)
#: Fields for which no unknown field stands in a data set that another made: all but times and channels.
SETTLED = frozenset((*SIMPLE_LINE.table, "messages", _SYSTEM, _PART, _CONTENT, _SYSTEM_MESSAGE)) - TIMES
#: The same for recordings that are given as bytes: times and channels are those of the recording before the cut.
SETTLED_OF_BYTES = SETTLED | TIMES | {ONE_CHANNEL}
#: A message.
MESSAGE = KnownFields(
    {"role": (), "content": (), "recipient": ()},
    _by_word(
        {
            "content": [*REFERENCE_WORDS, *AUDIO_WORDS, *CODES_WORDS, *TEXT_WORDS, *PROMPT_WORDS, "value"],
            "offset in the content": [*START_WORDS, *END_WORDS],
            "role": ["from"],
            "start_index": WEIGHT_WORDS,
        }
    ),
)
#: A text or audio in the content of a message.
PART = KnownFields(
    {
        "type": (),
        "text": (),
        "audio_url": (*(name for name in SPEECH["audio"] if name != "audio_url"), "audio", "url"),
        "codes": SPEECH["codes"],
        "raw_audio": (),
        **STRETCH,
    },
    _by_word(
        {
            "audio_url": [*REFERENCE_WORDS, *AUDIO_WORDS],
            "codes": CODES_WORDS,
            "text": TEXT_WORDS,
            "offset": START_WORDS,
            "end": END_WORDS,
            "start_index": WEIGHT_WORDS,
        }
    ),
)


def _add(fields: Fields, known: str, name: str, value: Any, problems: LineProblems) -> None:
    """Add a known field, or raise `BadField` for a second spelling with another value."""
    word = _snake_case(name)
    if isinstance(value, list) and word.endswith(("audios", "texts")):
        if len(value) != 1:
            raise BadField(f"{fields.at}{show_key(name)}", "a list of one", f"a list of {len(value)}")
        value = value[0]
    if (unit := _unit(word)) and known in TIMES and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = value / UNITS[unit]
    if known not in fields:
        fields.add(known, name, value)
    elif known in SILENT:
        return  # an utterance may have further names
    elif known == "text" and word in NORMALIZED and _snake_case(fields.names[known]) not in NORMALIZED:
        fields.add(known, name, value)
    elif known == "text" and word not in NORMALIZED and _snake_case(fields.names[known]) in NORMALIZED:
        return  # the text before the normalization
    elif not _agree(known, fields[known], value):
        first, got = show_key(fields.names[known]), f"{show(fields[known])} and {show(value)}"
        raise BadField(f"{fields.at}{show_key(name)}", f"{known} once, or the same as in {first}", got)
    if name != known and known not in SILENT:
        problems.renamed.add((_anywhere(f"{fields.at}{name}"), known))


def _agree(known: str, first: Any, second: Any) -> bool:
    """Return True if two values of a field mean the same. A file may be given with less of its path."""
    if not isinstance(first, str) or not isinstance(second, str):
        return bool(first == second)
    if known not in ("audio", "audio_url", "ref_audio"):
        return first.strip() == second.strip()
    paths = [re.split(r"[\\/]", path.strip().removeprefix("./")) for path in (first, second)]
    shorter, longer = sorted(paths, key=lambda path: (len(path), len(path[-1])))
    return shorter in (longer[-len(shorter) :], [longer[-1].rpartition(".")[0]])


@lru_cache(maxsize=4_096)
def _snake_case(name: str) -> str:
    """Return a name in snake case.

    Example:
        >>> _snake_case("audioFilePath"), _snake_case("Ref-Audio "), _snake_case("ID")
        ('audio_file_path', 'ref_audio', 'id')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip("\ufeff \t"))
    return re.sub(r"[\s.\-]+", "_", words).lower()


@lru_cache(maxsize=4_096)
def _anywhere(place: str) -> str:
    """Return a place without the numbers of messages and parts."""
    return re.sub(r"\[\d+\]", "[]", place)


@lru_cache(maxsize=4_096)
def _unit(word: str) -> str:
    return next((unit for unit in UNITS if word.endswith(unit)), "")


def _nearest(word: str, fields: Mapping[str, str], cutoff: float) -> str:
    """Return the known field of the spelling nearest to a word, or an empty text."""
    if len(word) < _SHORTEST_TYPO:
        return ""
    long = [spelling for spelling in fields if len(spelling) >= _SHORTEST_TYPO]
    swapped = [spelling for spelling in long if sorted(spelling) == sorted(word)]
    near = swapped or get_close_matches(word, long, n=1, cutoff=cutoff)
    return fields[near[0]] if near else ""
