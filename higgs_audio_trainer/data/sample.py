"""A sample of the manifest: a conversation, its turns and its clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["system", "scene", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Clip:
    """Speech of one turn: an audio file, or codes that were encoded before.

    Attributes:
        path: the file.
        encoded: the file holds codes, not audio.
        offset_s: where the clip begins in the audio file; seconds.
        duration_s: how long it is; seconds; None for all that follows.
        field: where the manifest names it, for messages.
    """

    path: Path
    encoded: bool
    offset_s: float = 0.0
    duration_s: float | None = None
    field: str = "audio"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: texts and clips in their order.

    Only assistant turns hold clips, have a recipient or are supervised. A scene follows the system turn.
    """

    role: Role
    parts: tuple[str | Clip, ...]
    supervised: bool = False
    recipient: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation of the manifest. `where` is `file:line`."""

    id: str
    turns: tuple[Turn, ...]
    where: str

    @property
    def clips(self) -> list[Clip]:
        """Every clip, in the order of the turns."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Clip)]
