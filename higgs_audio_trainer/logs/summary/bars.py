"""Figures as small bars of characters, in blocks or, where an encoding has none, in ASCII."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What bars are drawn with.

    Attributes:
        levels: from the lowest to the highest.
        full: the part of a bar that is reached.
        rest: the part that is not.
    """

    levels: str
    full: str
    rest: str

    def bar(self, share: float | None, width: int) -> str:
        """Draw a share, 0 to 1, as a bar; blank where there is none."""
        if share is None:
            return " " * width
        reached = int(min(max(share, 0.0), 1.0) * width + 0.5)
        return self.full * reached + self.rest * (width - reached)

    def trend(self, values: Sequence[float | None], width: int) -> str:
        """Draw values over time, between the lowest and the highest of them; blank where there is none."""
        points = _resampled(values, width)
        known = [value for value in points if value is not None]
        low, span = (min(known), max(known) - min(known)) if known else (0.0, 0.0)
        drawn = (" " if value is None else self._level(value, low, span) for value in points)
        return "".join(drawn).ljust(width)

    def _level(self, value: float, low: float, span: float) -> str:
        share = (value - low) / span if span > 0 else 0.5
        return self.levels[min(int(share * len(self.levels)), len(self.levels) - 1)]


BLOCKS = Glyphs("▁▂▃▄▅▆▇█", "█", "░")
ASCII = Glyphs("_.-=+*%#", "#", ".")


def glyphs(encoding: str) -> Glyphs:
    """Choose what an encoding has."""
    try:
        f"{BLOCKS.levels}{BLOCKS.full}{BLOCKS.rest}".encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS


def _resampled(values: Sequence[float | None], width: int) -> list[float | None]:
    """Make at most `width` values of many: means of neighbours."""
    if len(values) <= width:
        return list(values)
    points: list[float | None] = []
    for index in range(width):
        part = values[index * len(values) // width : (index + 1) * len(values) // width]
        known = [value for value in part if value is not None]
        points.append(sum(known) / len(known) if known else None)
    return points
