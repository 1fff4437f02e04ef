"""A series of any length in bounded memory: neighbouring steps share a bucket, which keeps its lowest and highest."""

from __future__ import annotations

from dataclasses import dataclass

MOST_BUCKETS = 160
LARGEST = 1e30  # what is beyond is no figure to draw
Point = tuple[int, float]  # step, value


@dataclass(slots=True)
class Bucket:
    """Neighbouring values of a series.

    Attributes:
        first_step: of the first value.
        last_step: of the last one.
        count: values that are numbers.
        total: their sum.
        low: the lowest, where it was first; None without a number.
        high: the highest, where it was first.
        broken: values that are NaN, infinite or beyond `LARGEST`.
    """

    first_step: int
    last_step: int
    count: int = 0
    total: float = 0.0
    low: Point | None = None
    high: Point | None = None
    broken: int = 0

    def add(self, step: int, value: float | None) -> None:
        """Take a value; None is none."""
        self.last_step = step
        if value is None:
            return
        if not abs(value) <= LARGEST:
            self.broken += 1
            return
        self.count += 1
        self.total += value
        if self.low is None or value < self.low[1]:
            self.low = step, value
        if self.high is None or value > self.high[1]:
            self.high = step, value

    def absorb(self, other: Bucket) -> None:
        """Take what the next bucket has."""
        self.last_step = other.last_step
        self.count += other.count
        self.total += other.total
        self.broken += other.broken
        if other.low is not None and (self.low is None or other.low[1] < self.low[1]):
            self.low = other.low
        if other.high is not None and (self.high is None or other.high[1] > self.high[1]):
            self.high = other.high

    @property
    def mean(self) -> float | None:
        """The mean of its numbers; None without one."""
        return self.total / self.count if self.count else None

    def points(self) -> list[Point]:
        """Return the lowest and the highest in the order of their steps; one of them where they are the same."""
        return sorted({point for point in (self.low, self.high) if point is not None})


class Thinned:
    """A series, thinned as it comes.

    Buckets hold equally many values, but for the last. When there are `most` of them, two become one. Series that are
    given the same steps have the same buckets.

    Attributes:
        buckets: in the order of steps, at most `most`.
        values_each: values that a full bucket holds.
        first: the first number and its step; None without one.
        last: the last one.
    """

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        if most < 2 or most % 2:  # noqa: PLR2004
            raise ValueError(f"most: expected an even number of buckets, got {most}")
        self.buckets: list[Bucket] = []
        self.values_each = 1
        self.first: Point | None = None
        self.last: Point | None = None
        self._most = most
        self._in_last = 0

    def add(self, step: int, value: float | None) -> None:
        """Take the value of a later step; None where there is none."""
        if not self.buckets or self._in_last == self.values_each:
            if len(self.buckets) == self._most:
                self._halve()
            self.buckets.append(Bucket(step, step))
            self._in_last = 0
        self._in_last += 1
        self.buckets[-1].add(step, value)
        if value is not None and abs(value) <= LARGEST:
            self.last = step, value
            self.first = self.first or self.last

    def _halve(self) -> None:
        for one, other in zip(self.buckets[::2], self.buckets[1::2], strict=True):
            one.absorb(other)
        del self.buckets[1::2]
        self.values_each *= 2

    @property
    def is_empty(self) -> bool:
        """Whether no value was given but None."""
        return not any(bucket.count or bucket.broken for bucket in self.buckets)

    def segments(self) -> list[list[Point]]:
        """Return what is drawn, by step: ends, lowest and highest of each bucket; parted where all broke."""
        found: list[list[Point]] = [[]]
        for bucket in self.buckets:
            if bucket.broken and not bucket.count:
                found.append([])
            found[-1] += bucket.points()
        ends = [segment for segment in found if segment]
        if ends and self.first is not None and self.last is not None:
            ends[0] = sorted({self.first, *ends[0]})
            ends[-1] = sorted({self.last, *ends[-1]})
        return ends
