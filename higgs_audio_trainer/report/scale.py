"""Axes with round numbers, and numbers as short texts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count, takewhile

from higgs_audio_trainer.logs.bounded_series import NumberSeries

_ROUND = (1, 2, 2.5, 5, 10)
_LARGE = 1e5
_SMALL = 1e-3
_SHARE_MARGIN = 0.1
_SMALLEST_SPAN = 1e-300


@dataclass(frozen=True, slots=True)
class Axis:
    """Range of an axis.

    Attributes:
        low: Value at the lower end.
        high: Value at the upper end.
        is_share: True if labels are percentages.
    """

    low: float
    high: float
    is_share: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value, from 0.0 at the lower end to 1.0 at the upper end.

        Example:
            >>> Axis(10, 20).place(15)
            0.5
        """
        span = self.high - self.low
        return (value - self.low) / span if span else 0.5

    def ticks(self, most: int) -> list[float]:
        """Return at most about `most` round numbers on the axis, and integers if both ends are integers.

        Example:
            >>> Axis(0.0, 7.0).ticks(5)
            [0.0, 2.0, 4.0, 6.0]
        """
        span = self.high - self.low
        if not _SMALLEST_SPAN < span < math.inf:  # no logarithm
            return [self.low]
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * times for times in _ROUND if span / (power * times) <= most)
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = max(1, math.ceil(step))
        first = math.ceil(self.low / step - 1e-9)
        limit = self.high + span * 1e-9
        return list(takewhile(lambda value: value <= limit, (index * step for index in count(first))))

    def label(self, value: float) -> str:
        """Return the label of a tick.

        Example:
            >>> Axis(0.0, 1.0, is_share=True).label(0.025), Axis(0.0, 10.0).label(2.5)
            ('2.5%', '2.5')
        """
        return f"{100 * value:.4g}%" if self.is_share else number(value)

    def write(self, value: float | None) -> str:
        """Return a value of the axis for a table or a sentence.

        Example:
            >>> Axis(0.0, 1.0, is_share=True).write(0.256), Axis(0.0, 10.0).write(2.5)
            ('25.6%', '2.5')
        """
        return share(value) if self.is_share else number(value)


def axis_of(series: Iterable[NumberSeries], *, is_share: bool = False, near: float | None = None) -> Axis:
    """Return the common axis of several series: the range of their values, extended to round numbers.

    Args:
        series: Series that share the axis.
        is_share: Whether the values are shares, which stay between 0 and 1.
        near: Value that the axis includes too, if the value is at most half a range above the series.
    """
    buckets = [bucket for one in series for bucket in one.buckets]
    lows = [bucket.low[1] for bucket in buckets if bucket.low is not None]
    highs = [bucket.high[1] for bucket in buckets if bucket.high is not None]
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    if near is not None and low <= near <= high + (high - low) / 2:
        high = max(high, near)
    if low == high:
        low, high = _around(low, is_share=is_share)
    ticks = Axis(low, high).ticks(5)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Axis(max(0.0, low), min(1.0, high), is_share=True) if is_share else Axis(low, high)


def _around(value: float, *, is_share: bool) -> tuple[float, float]:
    """Return a range for equal values."""
    if is_share:
        return max(0.0, value - _SHARE_MARGIN), min(1.0, value + _SHARE_MARGIN)
    return (value, value + abs(value)) if value else (0.0, 1.0)


def number(value: float | None) -> str:
    """Return a number in about four digits, and "-" for None.

    Example:
        >>> number(3.36412), number(1234567), number(0.00001), number(None)
        ('3.364', '1,234,567', '1e-05', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if value and not _SMALL <= abs(value) < _LARGE:
        return f"{value:.3g}"
    text = f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"  # noqa: PLR2004
    return "0" if text == "-0" else text


def share(value: float | None) -> str:
    """Return a share as a percentage, and "-" for None.

    Example:
        >>> share(0.725), share(None)
        ('72.5%', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}%"


def step_range(first: int, last: int) -> str:
    """Return the text of a range of steps.

    Example:
        >>> step_range(7, 7), step_range(7, 1200)
        ('7', '7 to 1,200')
    """
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"
