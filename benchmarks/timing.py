"""Timings for comparisons. Calls take turns, and a slow phase of the machine affects every call."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1, repeats: int = 1
) -> dict[str, list[float]]:
    """Time calls in turns (A B C, A B C, ...), with the garbage collector off as in `timeit`.

    Args:
        calls: Calls by name.
        rounds: Number of counted rounds.
        warm_up: Number of rounds before the counted rounds.
        repeats: Number of calls per timing, for calls too short for the clock.

    Returns:
        Seconds of a call by name, with `rounds` values in order.

    Example:
        >>> taken = interleaved({"sum": lambda: sum(range(100)), "pass": lambda: None}, rounds=3)
        >>> {name: len(seconds) for name, seconds in taken.items()}
        {'sum': 3, 'pass': 3}
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            gc.collect()
            gc.disable()
            try:
                seconds = seconds_of(call, repeats)
            finally:
                gc.enable()
            if turn >= warm_up:
                taken[name].append(seconds)
    return taken


def seconds_of(call: Callable[[], object], calls: int) -> float:
    """Return the mean seconds of a call, over `calls` calls in a row."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of each round. The noise of a slow round cancels out.

    Example:
        >>> ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0])
        2.0
    """
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def ratio_quartiles(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile of the ratios of each round, or the extremes of fewer than 3 rounds.

    Example:
        >>> ratio_quartiles([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 1.0, 1.0, 1.0])
        (1.5, 4.5)
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    if len(ratios) < 3:  # noqa: PLR2004 - quantiles of two numbers lie outside of both
        return min(ratios), max(ratios)
    lower, _, upper = quantiles(ratios, n=4)
    return lower, upper
