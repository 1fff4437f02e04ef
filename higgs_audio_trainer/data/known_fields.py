"""Known fields of a manifest's objects, other spellings of the fields, and the treatment of all other fields.

1. A known field, or another spelling of a known field, is read.
2. An unknown field that may change what is heard or said is a problem of the line.
3. Any other unknown field is a note. Notes are listed once, with the nearest known field.

A new spelling is a word in one of the tables below. Names are compared in snake case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from higgs_audio_trainer.data.fields import BadField, Fields, LineProblems, show, show_key

Table = Mapping[str, tuple[str, ...]]

_NAMES: Table = {
    "id": ("utt_id", "utt", "utterance_id", "sample_id", "segment_id", "uid", "uuid", "key"),
    "speaker": ("speaker_id", "speaker_name", "spk", "spk_id"),
}
_SPEECH: Table = {
    "audio": (
        *("audio_filepath", "audio_file", "audio_filename", "audio_path", "audio_url", "audios"),
        *("file_name", "filename", "file", "filepath", "file_path", "path"),
        *("wav", "wav_path", "wav_file", "wav_filename", "speech", "speech_path", "sound"),
    ),
    "codes": ("audio_codes", "codes_path", "codes_file"),
    "text": (
        *("transcription", "transcript", "sentence", "transcript_text"),
        *("normalized_text", "text_normalized", "normalized_transcription", "normalized_transcript", "text_norm"),
    ),
    "scene": ("scene_description", "scene_desc"),
}
_REFERENCE: Table = {
    "ref_audio": (
        *(f"{word}_{kind}" for word in ("ref", "reference", "prompt") for kind in ("audios", "wav", "speech", "path")),
        *(f"{word}_audio_{kind}" for word in ("ref", "reference", "prompt") for kind in ("path", "file", "filepath")),
        *("reference_audio", "prompt_audio", "prompt_speech_path", "audio_prompt", "audio_prompt_path"),
        *("speaker_wav", "speaker_audio", "speaker_ref", "speaker_reference"),
    ),
    "ref_codes": ("reference_codes", "prompt_codes", "ref_audio_codes", "reference_audio_codes"),
    "ref_text": (
        *("reference_text", "prompt_text", "ref_texts", "reference_texts", "audio_prompt_text", "ref_audio_text"),
        *(f"{word}_{kind}" for word in ("ref", "reference", "prompt") for kind in ("transcript", "transcription")),
    ),
}
_STRETCH: Table = {  # in seconds; a unit may follow the name
    "offset": ("start", "start_time", "begin", "begin_time", "audio_offset", "audio_start"),
    "end": ("end_time", "stop", "stop_time", "audio_end"),
    "duration": ("dur", "audio_duration"),
}
_UNITS = {"_s": 1, "_sec": 1, "_secs": 1, "_seconds": 1, "_ms": 1_000}


def _words(text: str) -> list[str]:
    return text.split()


#: Words of notes about a text or a recording, such as `text_language` and `audio_id`.
_NOTE_WORDS = frozenset(
    _words("""
        id ids idx index name lang langs language languages locale dialect accent gender sex age dur duration durations
        len length size rate hz sr samplerate hash md5 sha1 sha256 bytes format codec channels license dataset split
        score scores snr quality count num n type version phoneme phonemes phonemized ipa tokens translation emotion
        emotions domain topic confidence prob logprob wer cer mos dnsmos created annotator comment comments note notes
    """)
)
_NOTES = frozenset(("raw_text", "text_raw", "original_text", "text_original", "orig_text", "raw_transcript"))

#: Words by which an unknown field may change what is heard or said, whatever else is in the name.
_REFERENCE_WORDS = _words("ref refs reference references prompt prompts clone cloning enrollment")
_AUDIO_WORDS = _words("audio audios wav wavs sound sounds speech recording recordings clip clips waveform")
_TEXT_WORDS = _words("text texts transcript transcripts transcription sentence sentences")
_CODES_WORDS = _words("codes codebooks")
_PROMPT_WORDS = _words("""
    messages conversation conversations dialog dialogue turns chat system instruction instructions instruct segments
    images videos tools
""")
_START_WORDS, _END_WORDS = _words("offset offsets start begin"), _words("end stop")
_WEIGHT_WORDS = _words("loss weight train trainable mask")
_NUMBER_WORDS = frozenset((*_START_WORDS, *_END_WORDS, *_WEIGHT_WORDS))  # of fields that hold numbers
_TIMES = frozenset(("offset", "end", "duration"))
_SILENT = frozenset(("id", "speaker", "misc", "type"))  # no problem if mistyped
_SHORTEST_TYPO = 4  # letters; shorter names are near too many words
_TYPO, _NEAR = 0.8, 0.6  # least similarities, as for `difflib.get_close_matches`


@dataclass(frozen=True, eq=False)
class KnownFields:
    """Known fields of a kind of object.

    Attributes:
        table: Other spellings by known field.
        sounding: Words of unknown fields that are a problem, and what to use instead.
    """

    table: Table
    sounding: Mapping[str, str]

    def read(self, entry: Mapping[str, Any], at: str, problems: LineProblems) -> Fields:
        """Return the known fields of an object under their own names, and report all other fields.

        Args:
            entry: Object of a manifest line. Null counts as absent.
            at: Place of the object in the line, with a dot behind.
            problems: Report of the line.
        """
        fields = Fields(at)
        for name, value in sorted(entry.items(), key=lambda item: item[0] not in self.table):  # the known names first
            if value is None:
                continue
            known = self.known(name)
            with problems.collected():
                if known is None:
                    self._judge(name, value, at, problems)
                else:
                    _add(fields, known, name, value, problems)
        return fields

    @lru_cache(maxsize=4_096)  # noqa: B019 - there are four tables
    def known(self, name: str) -> str | None:
        """Return the known field of a name, or None."""
        word = _snake_case(name)
        found = next((known for known, others in self.table.items() if word == known or word in others), None)
        if found is None and (unit := _unit(word)):
            found = next(
                (time for time in _TIMES & self.table.keys() if self.known(word.removesuffix(unit)) == time), None
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
        if word in _NOTES or not _NOTE_WORDS.isdisjoint(words):
            return _nearest(word, fields, _NEAR), False
        if near := _nearest(
            word, {spelling: known for spelling, known in fields.items() if known not in _SILENT}, _TYPO
        ):
            return near, True
        instead = next((instead for key, instead in self.sounding.items() if key in words), "")
        return instead or _nearest(word, fields, _NEAR), bool(instead)

    def _judge(self, name: str, value: Any, at: str, problems: LineProblems) -> None:
        """Note an unknown field, or raise `BadField` if the field may change what is heard or said."""
        near, sounds = self.nearest(name)
        if isinstance(value, (bool, int, float)):
            sounds = sounds and (near in _TIMES or not _NUMBER_WORDS.isdisjoint(_snake_case(name).split("_")))
        if sounds and value not in ("", [], {}):
            raise BadField(
                f"{at}{show_key(name)}",
                f"a known field (nearest: {near})",
                "an unknown field about sound or text. Rename or remove the field",
            )
        problems.unused.add((f"{at}{name}", near))


def _by_word(words: Mapping[str, list[str]]) -> Mapping[str, str]:
    return {word: instead for instead, listed in words.items() for word in listed}


_PART = "audio_url in the content of a message"
#: A line in the simple form.
SIMPLE_LINE = KnownFields(
    {**_NAMES, **_SPEECH, **_REFERENCE, **_STRETCH},
    _by_word(
        {
            "ref_audio": _REFERENCE_WORDS,
            "offset": _START_WORDS,
            "end": _END_WORDS,
            "codes": _CODES_WORDS,
            "audio": _AUDIO_WORDS,
            "text": _TEXT_WORDS,
            "messages": _PROMPT_WORDS,
        }
    ),
)
#: A line with messages.
CHATML_LINE = KnownFields(
    {**_NAMES, "messages": (), "start_index": (), "misc": ()},
    _by_word(
        {
            _PART: [*_REFERENCE_WORDS, *_AUDIO_WORDS, *_CODES_WORDS],
            "offset in the content of a message": [*_START_WORDS, *_END_WORDS],
            "content of a message": [*_TEXT_WORDS, "scene"],
            "messages": _PROMPT_WORDS,
            "start_index": _WEIGHT_WORDS,
        }
    ),
)
#: A message.
MESSAGE = KnownFields(
    {"role": (), "content": (), "recipient": ()},
    _by_word(
        {
            "content": [*_REFERENCE_WORDS, *_AUDIO_WORDS, *_CODES_WORDS, *_TEXT_WORDS, *_PROMPT_WORDS, "value"],
            "offset in the content": [*_START_WORDS, *_END_WORDS],
            "role": ["from"],
            "start_index": _WEIGHT_WORDS,
        }
    ),
)
#: A text or audio in the content of a message.
PART = KnownFields(
    {
        "type": (),
        "text": (),
        "audio_url": (*(name for name in _SPEECH["audio"] if name != "audio_url"), "audio", "url"),
        "codes": _SPEECH["codes"],
        "raw_audio": (),
        **_STRETCH,
    },
    _by_word(
        {
            "audio_url": [*_REFERENCE_WORDS, *_AUDIO_WORDS],
            "codes": _CODES_WORDS,
            "text": _TEXT_WORDS,
            "offset": _START_WORDS,
            "end": _END_WORDS,
            "start_index": _WEIGHT_WORDS,
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
    if (unit := _unit(word)) and known in _TIMES and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = value / _UNITS[unit]
    if known not in fields:
        fields.add(known, name, value)
    elif known in _SILENT:
        return  # an utterance may have further names
    elif not _agree(known, fields[known], value):
        first, got = show_key(fields.names[known]), f"{show(fields[known])} and {show(value)}"
        raise BadField(f"{fields.at}{show_key(name)}", f"{known} once, or the same as in {first}", got)
    if name != known and known not in _SILENT:
        problems.renamed.add((f"{fields.at}{name}", known))


def _agree(known: str, first: Any, second: Any) -> bool:
    """Return True if two values of a field mean the same. A file may be given with less of its path."""
    if not isinstance(first, str) or not isinstance(second, str):
        return bool(first == second)
    if known not in ("audio", "audio_url", "ref_audio"):
        return first.strip() == second.strip()
    shorter, longer = sorted((re.split(r"[\\/]", path.strip().removeprefix("./")) for path in (first, second)), key=len)
    return longer[-len(shorter) :] == shorter or [longer[-1].rpartition(".")[0]] == shorter


def _snake_case(name: str) -> str:
    """Return a name in snake case.

    Example:
        >>> _snake_case("audioFilePath"), _snake_case("Ref-Audio "), _snake_case("ID")
        ('audio_file_path', 'ref_audio', 'id')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip("\ufeff \t"))
    return re.sub(r"[\s.\-]+", "_", words).lower()


def _unit(word: str) -> str:
    return next((unit for unit in _UNITS if word.endswith(unit)), "")


def _nearest(word: str, fields: Mapping[str, str], cutoff: float) -> str:
    """Return the known field of the spelling nearest to a word, or an empty text."""
    if len(word) < _SHORTEST_TYPO:
        return ""
    long = [spelling for spelling in fields if len(spelling) >= _SHORTEST_TYPO]
    swapped = [spelling for spelling in long if sorted(spelling) == sorted(word)]
    near = swapped or get_close_matches(word, long, n=1, cutoff=cutoff)
    return fields[near[0]] if near else ""
