"""Times of the ranks in a step, which travel with the sums of the step: a slow rank holds up all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median_low
from typing import Any

import torch
from torch import Tensor


def with_rank_time(sums: Tensor, seconds: float, *, rank: int, num_ranks: int) -> Tensor:
    """Return sums with rows that hold the time of this rank in its own place, to be added up over the ranks.

    Args:
        sums: Sums of this rank, [R, G].
        seconds: Time of this rank.
        rank: Number of this rank.
        num_ranks: Number of ranks, N. One rank adds no row.

    Returns:
        Sums, [R + ceil(N / G), G], or the same sums for one rank.
    """
    num_rows, width = num_time_rows(num_ranks, sums.shape[1]), sums.shape[1]
    if not num_rows:
        return sums
    times = [0.0] * (num_rows * width)
    times[rank] = seconds
    return torch.cat(
        [sums, torch.tensor(times, dtype=sums.dtype).view(num_rows, width).to(sums.device, non_blocking=True)]
    )


def num_time_rows(num_ranks: int, width: int) -> int:
    """Return the number of rows of `with_rank_time`.

    Example:
        >>> num_time_rows(1, 9), num_time_rows(9, 9), num_time_rows(64, 9)
        (0, 1, 8)
    """
    return math.ceil(num_ranks / width) if num_ranks > 1 else 0


def time_fields(seconds: Sequence[float]) -> dict[str, Any]:
    """Return the fields of `TrainStep` about the ranks' times; none for fewer than two ranks.

    The median of an even number of times is the lower of the two in the middle.

    Example:
        >>> time_fields([0.25, 0.5, 0.25, 1.0])
        {'step_ms_max': 1000.0, 'step_ms_median': 250.0, 'slowest_rank': 3}
        >>> time_fields([0.25])
        {}
    """
    if len(seconds) <= 1:
        return {}
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    return {
        "step_ms_max": seconds[slowest] * 1000,
        "step_ms_median": median_low(seconds) * 1000,
        "slowest_rank": slowest,
    }
