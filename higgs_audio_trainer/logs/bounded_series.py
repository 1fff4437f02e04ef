"""Series of any length in constant memory, because neighbouring items share a group."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Point = tuple[int, float]  # step, value


class BoundedSeries(Generic[Item]):
    """Groups of neighbouring items. Each group but the last holds equally many items.

    When the series is full, each two neighbouring groups become one group, and groups hold twice as many items from
    then on. Two series with the same capacity and the same number of items have the same groups.

    Args:
        capacity: Largest number of groups, at least 2.
        merge: Function that makes one group of two neighbouring groups. An item is a group of one.

    Attributes:
        groups: Groups in the order of the items.
        items_each: Number of items in a full group, a power of two.
        count: Number of items that were added.

    Raises:
        ValueError: The capacity is below 2.

    Example:
        >>> words = BoundedSeries(4, merge=lambda first, second: first + second)
        >>> for letter in "abcdefghij":
        ...     words.append(letter)
        >>> words.groups, words.items_each, words.count
        (['abcd', 'efgh', 'ij'], 4, 10)
    """

    def __init__(self, capacity: int, merge: Callable[[Item, Item], Item]) -> None:
        if capacity < 2:  # noqa: PLR2004
            raise ValueError(f"capacity: expected at least 2 groups, got {capacity}")
        self.groups: list[Item] = []
        self.items_each = 1
        self.count = 0
        self._capacity = capacity
        self._merge = merge

    def append(self, item: Item) -> None:
        """Add the next item to the last group, or start a new group."""
        if self.count == self._capacity * self.items_each:
            ends = self.groups[len(self.groups) & ~1 :]  # the last group of an odd number has no partner
            pairs = zip(self.groups[::2], self.groups[1::2], strict=False)
            self.groups = [*(self._merge(first, second) for first, second in pairs), *ends]
            self.items_each *= 2
        if self.count % self.items_each:
            self.groups[-1] = self._merge(self.groups[-1], item)
        else:
            self.groups.append(item)
        self.count += 1


class EvenSample(BoundedSeries[Item]):
    """Evenly spaced items of a sequence, with the first and the last item.

    Args:
        most: Largest number of items, at least 3.

    Attributes:
        latest: Last item that was added. None before the first item.

    Example:
        >>> steps = EvenSample(4)
        >>> for step in range(100):
        ...     steps.append(step)
        >>> steps.items
        [0, 64, 99]
    """

    def __init__(self, most: int) -> None:
        super().__init__(most - 1, lambda first, _: first)
        self.latest: Item | None = None

    def append(self, item: Item) -> None:
        """Add the next item."""
        super().append(item)
        self.latest = item

    @property
    def items(self) -> list[Item]:
        """Return the kept items in the order of the sequence."""
        if self.latest is None or (self.count - 1) % self.items_each == 0:  # the last group starts with the last item
            return list(self.groups)
        return [*self.groups, self.latest]


@dataclass(slots=True)
class Bucket:
    """Neighbouring values of a series of numbers.

    Attributes:
        first_step: Step of the first value.
        last_step: Step of the last value.
        count: Number of values that can be drawn.
        total: Sum of these values.
        low: Lowest of these values, where it occurs first. None if `count` is 0.
        high: Highest of these values, where it occurs first. None if `count` is 0.
        broken: Number of values that are NaN, infinite or too large to draw.
    """

    first_step: int
    last_step: int
    count: int = 0
    total: float = 0.0
    low: Point | None = None
    high: Point | None = None
    broken: int = 0

    def absorb(self, following: Bucket) -> Bucket:
        """Add the values of the following bucket to this bucket, and return this bucket."""
        self.last_step = following.last_step
        self.count += following.count
        self.total += following.total
        self.broken += following.broken
        if following.low is not None and (self.low is None or following.low[1] < self.low[1]):
            self.low = following.low
        if following.high is not None and (self.high is None or following.high[1] > self.high[1]):
            self.high = following.high
        return self

    @property
    def mean(self) -> float | None:
        """Return the mean of the values. None without values, or if their sum is not finite."""
        return self.total / self.count if self.count and math.isfinite(self.total) else None


class NumberSeries:
    """Numbers over steps in buckets that keep their extremes.

    Args:
        capacity: Largest number of buckets, at least 2.
        largest: Largest magnitude of a value that can be drawn. Larger values count as broken, like NaN.

    Attributes:
        first: First step with a value that can be drawn, and the value. None without such a value.
        last: Last step with a value that can be drawn, and the value. None without such a value.
        broken_since: First step of the broken values at the end. None if the last value can be drawn.

    Example:
        >>> losses = NumberSeries(4)
        >>> for step, loss in enumerate([4.0, 3.0, 9.0, 2.0, None, 1.0], start=1):
        ...     losses.add(step, loss)
        >>> [(bucket.first_step, bucket.last_step, bucket.mean) for bucket in losses.buckets]
        [(1, 2, 3.5), (3, 4, 5.5), (5, 6, 1.0)]
        >>> losses.segments()
        [[(1, 4.0), (2, 3.0), (3, 9.0), (4, 2.0), (6, 1.0)]]
    """

    def __init__(self, capacity: int, *, largest: float = sys.float_info.max) -> None:
        self.first: Point | None = None
        self.last: Point | None = None
        self.broken_since: int | None = None
        self._largest = largest
        self._series = BoundedSeries(capacity, Bucket.absorb)

    @property
    def buckets(self) -> list[Bucket]:
        """Return the buckets in the order of steps."""
        return self._series.groups

    @property
    def values_each(self) -> int:
        """Return the number of values in a full bucket, with missing values."""
        return self._series.items_each

    @property
    def is_empty(self) -> bool:
        """Return True if all values are missing."""
        return not any(bucket.count or bucket.broken for bucket in self.buckets)

    def add(self, step: int, value: float | None) -> None:
        """Add the value of the next step. None is a missing value."""
        bucket = Bucket(step, step)
        if value is not None and abs(value) <= self._largest:
            self.last = bucket.low = bucket.high = step, value
            self.first = self.first or self.last
            self.broken_since = None
            bucket.count, bucket.total = 1, value
        elif value is not None:
            bucket.broken = 1
            self.broken_since = step if self.broken_since is None else self.broken_since
        self._series.append(bucket)

    def segments(self) -> list[list[Point]]:
        """Return the points of a line, by step, in segments that are separated by buckets with broken values alone.

        The points are the first and the last value, and the lowest and the highest value of each bucket.
        """
        segments: list[list[Point]] = [[]]
        for bucket in self.buckets:
            if bucket.broken and not bucket.count:
                segments.append([])
            segments[-1] += sorted({point for point in (bucket.low, bucket.high) if point is not None})
        drawn = [segment for segment in segments if segment]
        if drawn and self.first is not None and self.last is not None:
            drawn[0] = sorted({self.first, *drawn[0]})
            drawn[-1] = sorted({self.last, *drawn[-1]})
        return drawn
