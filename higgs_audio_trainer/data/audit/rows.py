"""Rows of the audit, samples with clips and facts about each clip."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from higgs_audio_trainer.data.audio_facts import AudioFacts
from higgs_audio_trainer.data.sample import Clip, Sample, Turn


class AuditedClip(NamedTuple):
    """A clip of a sample. Unknown values are None.

    Attributes:
        text: Text that the clip speaks.
        seconds: Length.
        audio_hash: Hash of the decoded audio as hexadecimal digits, as in `AudioFacts.content_hash`.
        codes_hash: Hash of the codes as hexadecimal digits.
        facts: Facts about the sound. None for a clip that is given as codes.
        is_reference: True if the clip is no training target.
        file_hash: Hash of the name of the audio file as hexadecimal digits.
        start_s: Start of the clip in the audio file, seconds.
        unknown_tokens: Control tokens of the text that the tokenizer does not know.
    """

    text: str | None
    seconds: float | None
    audio_hash: str | None = None
    codes_hash: str | None = None
    facts: AudioFacts | None = None
    is_reference: bool = False
    file_hash: str | None = None
    start_s: float = 0.0
    unknown_tokens: tuple[str, ...] = ()


class AuditedSample(NamedTuple):
    """A sample of a manifest.

    Attributes:
        id: Id in the manifest.
        where: Place in the manifest, `file:line`.
        clips: Clips of the sample, targets and references.
        speaker: Speaker in the manifest. None without one.
        byte_tokens: Number of the prompt's tokens that are parts of characters, see `partial_tokens`. None if unknown.
    """

    id: str
    where: str
    clips: tuple[AuditedClip, ...]
    speaker: str | None = None
    byte_tokens: int | None = None


class SpokenClip(NamedTuple):
    """A clip of a manifest with its text.

    Attributes:
        clip: The clip.
        text: Text that the clip speaks. None if the manifest does not say.
        is_reference: True if the clip is no training target.
    """

    clip: Clip
    text: str | None
    is_reference: bool


def spoken_clips(sample: Sample) -> Iterator[SpokenClip]:
    """Yield the clips of a sample with their texts: the texts beside the clip, or the user's turn before the clip.

    Example:
        >>> from pathlib import Path
        >>> clip = Clip(Path("a.wav"), encoded=False)
        >>> turns = Turn("user", ("Hello.",)), Turn("assistant", (clip,), supervised=True)
        >>> [(spoken.text, spoken.is_reference) for spoken in spoken_clips(Sample("a", turns, "m.jsonl:1"))]
        [('Hello.', False)]
    """
    for before, turn in zip((None, *sample.turns), sample.turns, strict=False):
        clips = [part for part in turn.parts if isinstance(part, Clip)]
        text = _text(turn) or (_text(before) if before is not None and before.role == "user" else "")
        for clip in clips:
            yield SpokenClip(clip, text if text and len(clips) == 1 else None, not turn.supervised)


def _text(turn: Turn) -> str:
    """Return the texts of a turn, joined as in the prompt, without a space. Texts around a clip have a space."""
    runs = groupby(turn.parts, key=lambda part: isinstance(part, str))
    return " ".join("".join(part for part in run if isinstance(part, str)) for is_text, run in runs if is_text)
