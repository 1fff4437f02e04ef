"""The word about a loss: what it needs, and what one noisy step cannot do."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.rendering.trend import MOST, Trend, trend_of

TARGETS = 4_640
CHANCE = math.log(1026)
falling = st.lists(st.floats(0.1, 20), min_size=1, max_size=2 * MOST).map(lambda losses: sorted(losses, reverse=True))


def word_of(*losses, targets=TARGETS, chance=CHANCE):
    """Return the word for losses, with the chance level of a Higgs codebook."""
    trend = trend_of(losses, targets=targets, chance=chance)
    return trend and trend.word


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([], None),
        ([5.0], None),
        ([6.84], "at chance"),
        ([5.0, 4.0, 6.98], "at chance"),
        ([7.6], "worse than chance"),
        ([7.606, 7.606, 7.544], "worse than chance"),
        ([7.5, 7.6, 7.5, 7.6], "worse than chance"),
        ([7.606, 7.544, 7.429, 7.232], "learning"),
        ([9.0, 7.7], "learning"),
        ([7.1, 7.5, 8.0, 8.5], "rising"),
        ([6.0, 5.3], "learning"),
        ([6.0, 5.3, 4.7], "learning"),
        ([6.0, 5.7], "too early"),
        ([6.0, 5.3, 5.2], "learning"),
        ([6.0, 5.2, 5.3], "too early"),
        ([5.3, 6.0], "too early"),
        ([6.0, 5.9, 5.8, 5.7], "learning"),
        ([6.0, 5.3, 5.35, 5.2], "flat"),
        ([6.0, 5.5, 5.1, 5.2, 4.9, 4.7], "learning"),
        ([3.0, 3.1, 2.9, 3.05, 3.0, 2.95, 3.1, 3.0], "flat"),
        ([3.2, 3.1, 3.05, 3.0, 3.0, 3.5, 4.2, 5.0], "rising"),
        ([3.0, 3.01, 3.02, 3.03], "flat"),
        ([3.0, 3.01, 3.02, 3.03, 3.04, 3.05], "rising"),
    ],
)
def test_words(losses, word):
    """Each word has its rule, at the borders of the rule."""
    assert word_of(*losses) == word


def test_reasons():
    """The reason names ln V or the number of logged steps that the word is about."""
    assert trend_of([6.9], targets=TARGETS, chance=CHANCE) == Trend("at chance", "guessing gives ln V = 6.93")
    falling = trend_of([9.0, 8.0], targets=TARGETS, chance=CHANCE)
    assert falling == Trend("learning", "loss falls over 2 logged steps, still above ln V = 6.93")
    assert trend_of([9.0, *[5.0] * 20], targets=TARGETS) == Trend("flat", f"no clear change over {MOST} logged steps")
    assert trend_of([1.0, 2.0, 3.0, 4.0], targets=TARGETS) == Trend("rising", "loss rises over 4 logged steps")


def test_an_unknown_vocabulary():
    """Without the vocabulary no loss is at chance."""
    assert word_of(7.6, chance=None) is None


def test_few_targets():
    """Over few targets two means differ by chance, so that a larger fall is needed."""
    assert word_of(5.0, 4.0, targets=10) == "too early"
    assert word_of(5.0, 3.0, targets=10) == "learning"


@given(falling, st.floats(0.1, 1_000))
def test_one_noisy_step_is_no_rise(losses, outlier):
    """After losses that never rose, a single loss of any size is no rise."""
    assert word_of(*losses, outlier, chance=None) != "rising"


def test_noise_without_a_trend():
    """Among 2,000 windows of equal losses with noise, few have a word that claims a trend."""
    generator = random.Random(0)
    words = [word_of(*(generator.gauss(3, 0.2) for _ in range(MOST))) for _ in range(2_000)]
    assert words.count("rising") < 0.04 * len(words)
    assert words.count("learning") < 0.06 * len(words)
