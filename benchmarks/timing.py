"""Times of things that are to be compared: taken by turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1, repeats: int = 1
) -> dict[str, list[float]]:
    """Time calls by turns: A B C, A B C, ...

    Args:
        calls: what is timed, by name.
        rounds: how many times each counts.
        warm_up: rounds before that do not.
        repeats: calls in each timing, for what is over too soon for the clock.

    Returns:
        seconds of one call, `rounds` of each name, in order. The garbage collector is off meanwhile, as in `timeit`.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            gc.collect()
            gc.disable()
            try:
                began = time.perf_counter()
                for _ in range(repeats):
                    call()
                seconds = (time.perf_counter() - began) / repeats
            finally:
                gc.enable()
            if turn >= warm_up:
                taken[name].append(seconds)
    return taken


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios round by round: what slowed a whole round down cancels out."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile; the values themselves where there are too few."""
    if len(values) < 3:  # noqa: PLR2004 - quantiles of two numbers lie outside of them
        return min(values), max(values)
    lower, _, upper = quantiles(values, n=4)
    return lower, upper
