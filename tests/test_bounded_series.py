"""Tests of series in constant memory against brute force over the whole sequence."""

import math
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.logs.bounded_series import BoundedSeries, EvenSample, NumberSeries

CAPACITIES = st.integers(2, 12)
LENGTHS = st.integers(0, 1_100)
VALUES = st.lists(st.none() | st.integers(-3, 3).map(float) | st.floats(), max_size=300)
BOUNDARIES = (1, 2, 7, 8, 9, 16, 17, 100, 1_000, 1_025)  # lengths around powers of two


def groups_of(items, capacity):
    """Return the smallest power of two that makes few enough groups, and the groups of a complete sequence."""
    each = 1
    while -(-len(items) // each) > capacity:
        each *= 2
    return each, [items[start : start + each] for start in range(0, len(items), each)]


def numbers_of(values, capacity, **options):
    """Return a series of values at the steps 1, 2, 3, ..."""
    series = NumberSeries(capacity, **options)
    for step, value in enumerate(values, 1):
        series.add(step, value)
        assert len(series.buckets) <= capacity
    return series


@given(LENGTHS, CAPACITIES)
@settings(deadline=None)
def test_groups_are_those_of_the_whole_sequence(length, capacity):
    """No item is lost or reordered, and each group but the last holds the same power of two of items."""
    series = BoundedSeries(capacity, lambda first, second: first + second)
    for item in range(length):
        series.append([item])
        assert len(series.groups) <= capacity
    each, groups = groups_of(list(range(length)), capacity)
    assert (series.groups, series.items_each, series.count) == (groups, each, length)


@pytest.mark.parametrize("capacity", [-1, 0, 1])
def test_a_series_has_at_least_two_groups(capacity):
    """A smaller capacity is an error, because two groups could not become one."""
    with pytest.raises(ValueError, match="at least 2 groups"):
        NumberSeries(capacity)


@given(LENGTHS, st.integers(3, 12))
@settings(deadline=None)
def test_a_sample_is_even_and_has_both_ends(length, most):
    """The first and the last item are kept, the items between are evenly spaced, and the gap is as small as can be."""
    sample = EvenSample(most)
    for item in range(length):
        sample.append(item)
        assert len(sample.items) <= most
    each, groups = groups_of(list(range(length)), most - 1)
    assert sample.items == sorted({group[0] for group in groups} | set(range(length)[-1:]))
    assert sample.items[:1] + sample.items[-1:] == [0, length - 1][: 2 * length]
    assert {later - item for item, later in pairwise(sample.items[:-1])} <= {each}


@given(VALUES, CAPACITIES)
@settings(deadline=None)
def test_buckets_are_those_of_the_whole_series(values, capacity):
    """Steps, extremes, mean and broken values of each bucket equal the ones of the whole series."""
    series = numbers_of(values, capacity, largest=1e30)
    each, groups = groups_of(list(enumerate(values, 1)), capacity)
    assert series.values_each == each
    for bucket, group in zip(series.buckets, groups, strict=True):
        known = [(step, value) for step, value in group if value is not None and abs(value) <= 1e30]
        assert (bucket.first_step, bucket.last_step) == (group[0][0], group[-1][0])
        assert (bucket.count, bucket.broken) == (len(known), sum(v is not None for _, v in group) - len(known))
        assert bucket.low == min(known, key=lambda point: point[1], default=None)
        assert bucket.high == max(known, key=lambda point: point[1], default=None)
        if not known:
            assert bucket.mean is None
        else:
            size = math.fsum(abs(value) for _, value in known) / len(known)
            assert bucket.mean == pytest.approx(math.fsum(v for _, v in known) / len(known), abs=1e-12 * size)


@given(VALUES, CAPACITIES)
@settings(deadline=None)
def test_lines_keep_ends_and_extremes(values, capacity):
    """The points of a line are values of the series in their order, with both ends, the lowest and the highest."""
    series = numbers_of(values, capacity)
    known = [(step, value) for step, value in enumerate(values, 1) if value is not None and math.isfinite(value)]
    drawn = [point for segment in series.segments() for point in segment]
    assert drawn == sorted(drawn)
    assert len(drawn) <= 2 * capacity + 2
    assert set(drawn) <= set(known)
    assert drawn[:1] + drawn[-1:] == known[:1] + known[-1:]
    for extreme in (min, max):
        assert extreme(known, key=lambda point: point[1], default=None) in [*drawn, None]
    assert series.is_empty == all(value is None for value in values)


@pytest.mark.parametrize("length", BOUNDARIES)
def test_lengths_around_powers_of_two(length):
    """No value is lost at lengths where groups are merged, or are just not merged."""
    series = numbers_of(range(length), 8)
    assert sum(bucket.count for bucket in series.buckets) == length
    assert (series.first, series.last) == ((1, 0), (length, length - 1))


def test_memory_is_constant():
    """Twenty times the values take no more memory."""
    peaks = []
    for length in (2_000, 40_000):
        tracemalloc.start()
        series, sample = NumberSeries(160), EvenSample(12)
        for step in range(length):
            series.add(step, step / 3)
            sample.append(step / 3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_broken_values_part_a_line():
    """A bucket of NaN alone parts the line; NaN beside a number does not."""
    assert numbers_of([1.0, math.nan, 3.0], 8).segments() == [[(1, 1.0)], [(3, 3.0)]]
    assert len(numbers_of([1.0, 1.0, math.nan, 3.0], 2).segments()) == 1
    assert numbers_of([math.nan], 8).segments() == []
