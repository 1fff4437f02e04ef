"""Samples of the manifest: conversations of turns and clips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "scene", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Clip:
    """Speech of a turn: an audio file, or a file of codes.

    Attributes:
        path: The file.
        encoded: True for codes, False for audio.
        offset_s: Start of the clip in the audio file, seconds.
        duration_s: Length of the clip, seconds. None for the rest of the file.
        stated_s: Length in the manifest without an offset, seconds. The file's length shows whether the clip is the
            file or the stretch from the beginning of the file.
        field: Field of the manifest with the path, for messages.
    """

    path: Path
    encoded: bool
    offset_s: float = 0.0
    duration_s: float | None = None
    stated_s: float | None = None
    field: str = "audio"


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn with its texts and clips in order.

    Only assistant turns hold clips, have a recipient or are supervised. A scene follows the system turn.
    """

    role: Role
    parts: tuple[str | Clip, ...]
    supervised: bool = False
    recipient: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation of the manifest.

    Attributes:
        id: Id in the manifest.
        turns: Turns of the conversation.
        where: Place in the manifest, `file:line`.
        speaker: Name of the speaker in the manifest. No part of the prompt.
        is_chat: True for a line of ChatML, which some families of models have no prompt for.

    Example:
        >>> sample = Sample("a", (Turn("assistant", ("Hello.", Clip(Path("a.wav"), encoded=False))),), "m.jsonl:1")
        >>> [clip.path.name for clip in sample.clips]
        ['a.wav']
    """

    id: str
    turns: tuple[Turn, ...]
    where: str
    speaker: str | None = None
    is_chat: bool = False

    @property
    def clips(self) -> list[Clip]:
        """All clips, in the order of the turns."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Clip)]


#: Values of a clip for JSON.
PackedClip = tuple[str, bool, float, float | None, float | None, str]


def packed(clip: Clip) -> list[Any]:
    """Return a clip as values for JSON."""
    path = os.fsencode(clip.path).decode("latin-1")  # a name on the disk may have any encoding
    return [path, clip.encoded, clip.offset_s, clip.duration_s, clip.stated_s, clip.field]


def unpacked(values: Sequence[Any]) -> Clip:
    """Return the clip of `packed`."""
    path, *more = values
    return Clip(Path(os.fsdecode(path.encode("latin-1"))), *more)
