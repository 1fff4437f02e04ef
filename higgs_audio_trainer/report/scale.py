"""Axes with round numbers, and numbers in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count, takewhile

from higgs_audio_trainer.report.thinning import Thinned

_ROUND = (1, 2, 2.5, 5, 10)
_LARGE = 1e5
_SMALL = 1e-3


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis reaches from and to, and whether its numbers are shares."""

    low: float
    high: float
    is_share: bool = False

    def place(self, value: float) -> float:
        """Return where a value is: 0 at the low end, 1 at the high one."""
        span = self.high - self.low
        return (value - self.low) / span if span else 0.5

    def ticks(self, most: int) -> list[float]:
        """Return round numbers on the axis, about so many at most; whole ones where the ends are whole."""
        span = self.high - self.low
        if not span:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * times for times in _ROUND if span / (power * times) <= most)
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = max(1, math.ceil(step))
        first = math.ceil(self.low / step - 1e-9)
        limit = self.high + span * 1e-9
        return list(takewhile(lambda value: value <= limit, (index * step for index in count(first))))

    def label(self, value: float) -> str:
        """Write a value of the axis."""
        return f"{100 * value:.0f}%" if self.is_share else number(value)


SHARES = Axis(0.0, 1.0, is_share=True)


def axis_of(series: Iterable[Thinned], *, from_zero: bool = True) -> Axis:
    """Make the axis of series that are compared by eye: the same for all of them, up to a round number."""
    buckets = [bucket for one in series for bucket in one.buckets]
    lows = [bucket.low[1] for bucket in buckets if bucket.low is not None]
    highs = [bucket.high[1] for bucket in buckets if bucket.high is not None]
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    if low == high:
        high = low + (abs(low) or 1.0)
    ticks = Axis(low, high).ticks(5)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def steps_of(ends: Iterable[int | None]) -> Axis:
    """Make the axis of steps that holds all of these."""
    known = [step for step in ends if step is not None]
    return Axis(min(known, default=0), max(known, default=0))


def number(value: float | None) -> str:
    """Write a number in about four digits."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if value and not _SMALL <= abs(value) < _LARGE:
        return f"{value:.3g}"
    text = f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"  # noqa: PLR2004
    return "0" if text == "-0" else text


def share(value: float | None) -> str:
    """Write a share."""
    return "-" if value is None else f"{100 * value:.1f}%"


def span(first: int, last: int) -> str:
    """Write which steps: `7`, or `7 to 9`."""
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"
