"""A figure over the steps of a run, in as little memory for a million steps as for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MOST_POINTS = 40


@dataclass(frozen=True, slots=True)
class Series:
    """What is said of a figure over a run; NaN, infinity and what is not there are None.

    Attributes:
        first: at the first logged step.
        last: at the last one.
        best: the lowest loss, the highest accuracy; None if there never was any.
        best_step: where that was first.
        trend: means over equally many steps each, from the first to the last; at most `MOST_POINTS`.
    """

    first: float | None
    last: float | None
    best: float | None
    best_step: int | None
    trend: tuple[float | None, ...]


class Curve:
    """Takes in a figure step by step.

    Args:
        best: `min` of a loss, `max` of an accuracy.
    """

    def __init__(self, best: Callable[[float, float], float]) -> None:
        self._choose = best
        self._first: float | None = None
        self._last: float | None = None
        self._best: float | None = None
        self._best_step: int | None = None
        self._points: list[tuple[float, int]] = []  # sum and number of the values of each
        self._steps_each = 1
        self._count = 0

    def add(self, step: int, value: float | None) -> None:
        """Take in the figure of a step."""
        number = value if value is not None and math.isfinite(value) else None
        if not self._count:
            self._first = number
        self._last = number
        if number is not None and (self._best is None or self._choose(number, self._best) != self._best):
            self._best, self._best_step = number, step
        self._draw(number)
        self._count += 1

    def series(self) -> Series:
        """Say what was seen so far."""
        trend = tuple(total / count if count and math.isfinite(total) else None for total, count in self._points)
        return Series(self._first, self._last, self._best, self._best_step, trend)

    def _draw(self, number: float | None) -> None:
        if self._count == self._steps_each * len(self._points):
            if len(self._points) == MOST_POINTS:  # two become one
                pairs = zip(self._points[::2], self._points[1::2], strict=True)
                self._points = [(one[0] + other[0], one[1] + other[1]) for one, other in pairs]
                self._steps_each *= 2
            self._points.append((0.0, 0))
        if number is not None:
            total, count = self._points[-1]
            self._points[-1] = total + number, count + 1
