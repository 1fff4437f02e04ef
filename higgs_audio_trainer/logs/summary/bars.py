"""Small bars and trend lines of characters, in Unicode blocks or in ASCII."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Characters of bars and trend lines.

    Attributes:
        levels: Characters of trend lines, from the lowest to the highest level.
        full: Character of the filled part of a bar.
        rest: Character of the empty part of a bar.
    """

    levels: str
    full: str
    rest: str

    def bar(self, share: float | None, width: int) -> str:
        """Return a fraction from 0 to 1 as a bar; blanks for None.

        Example:
            >>> ASCII.bar(0.75, 8)
            '######..'
        """
        if share is None:
            return " " * width
        reached = int(min(max(share, 0.0), 1.0) * width + 0.5)
        return self.full * reached + self.rest * (width - reached)

    def trend(self, values: Sequence[float | None], width: int) -> str:
        """Return values over time as a trend line between their minimum and maximum, with blanks for None.

        Example:
            >>> BLOCKS.trend([1.0, 2.0, None, 4.0], 4)
            '▁▃ █'
        """
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
    """Return the glyphs for an encoding.

    Example:
        >>> glyphs("utf-8") is BLOCKS, glyphs("ascii") is ASCII
        (True, True)
    """
    try:
        f"{BLOCKS.levels}{BLOCKS.full}{BLOCKS.rest}".encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS


def _resampled(values: Sequence[float | None], width: int) -> list[float | None]:
    """Reduce many values to at most `width` means of neighbours."""
    if len(values) <= width:
        return list(values)
    points: list[float | None] = []
    for index in range(width):
        part = values[index * len(values) // width : (index + 1) * len(values) // width]
        known = [value for value in part if value is not None]
        points.append(sum(known) / len(known) if known else None)
    return points
