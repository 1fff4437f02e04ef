"""A loss or an accuracy over the steps of a run, in memory that does not grow with the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from higgs_audio_trainer.logs.bounded_series import NumberSeries, Point

MOST_POINTS = 40


@dataclass(frozen=True, slots=True)
class CurveSummary:
    """Summary of a loss or an accuracy over a run. Values that are missing, NaN or infinite are None.

    Attributes:
        first: Value at the first logged step.
        last: Value at the last logged step.
        best: Lowest loss or highest accuracy. None without finite values.
        best_step: Step at which the best value occurs first.
        trend: Means over equally many neighbouring steps, in the order of steps. At most `MOST_POINTS` means.
    """

    first: float | None
    last: float | None
    best: float | None
    best_step: int | None
    trend: tuple[float | None, ...]


class Curve:
    """Collects the values of a loss or an accuracy.

    Args:
        best: Function that chooses the best value: `min` for a loss, `max` for an accuracy.

    Example:
        >>> curve = Curve(min)
        >>> for step, loss in ((10, 4.0), (20, 2.5), (30, 3.0)):
        ...     curve.add(step, loss)
        >>> curve.summary()
        CurveSummary(first=4.0, last=3.0, best=2.5, best_step=20, trend=(4.0, 2.5, 3.0))
    """

    def __init__(self, best: Callable[..., Point | None]) -> None:
        self._choose = best
        self._values = NumberSeries(MOST_POINTS)
        self._first: float | None = None
        self._last: float | None = None

    def add(self, step: int, value: float | None) -> None:
        """Add the value of the next logged step. None is a missing value."""
        self._last = value if value is not None and math.isfinite(value) else None
        if not self._values.buckets:
            self._first = self._last
        self._values.add(step, value)

    def summary(self) -> CurveSummary:
        """Return the summary of the values so far."""
        buckets = self._values.buckets
        extremes = (point for bucket in buckets for point in (bucket.low, bucket.high) if point is not None)
        best_step, best = self._choose(extremes, key=lambda point: point[1], default=None) or (None, None)
        return CurveSummary(self._first, self._last, best, best_step, tuple(bucket.mean for bucket in buckets))
