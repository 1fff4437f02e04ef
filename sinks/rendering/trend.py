"""The trend of a loss in a word. Pure functions.

A loss of one batch is noisy, so that a single difference says little. The words rest on the last logged losses:

- `at chance`: the last loss is within 0.1 nats of ln V, the loss of equal probabilities for V tokens.
- `worse than chance`: the last loss is higher than that, and neither falls nor rises clearly.
- `learning`: the losses fall, also above chance, by the test of Mann and Kendall at the level of 5 %. Two or three
  losses fall each time, by 10 % in all, and by more than the error of their means.
- `rising`: the losses rise by the same test at the level of 1 %, or the last four losses rise each time and by 10 % in
  all.
- `flat`: four losses or more do neither.
- `too early`: two or three losses do not fall so clearly.

The test counts the pairs of losses that fall and that rise. One outlier among n losses changes n - 1 pairs, which is
never enough for `rising`. See H. B. Mann, Nonparametric tests against trend, Econometrica 13 (1945).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

#: Number of losses that a trend is about.
MOST = 8
_NEAR_CHANCE = 0.1  # nats
_FEWEST = 4  # losses of the test; three can rise or fall in order by chance too often
_MARGIN = 0.1  # share of a loss
_DEVIATIONS = 3.0  # of the mean of a loss
_CLEAR = ("learning", "rising")  # words for a loss above chance too
_FALLS, _RISES = -1.645, 2.326  # standard scores of 5 % and 1 % of one side


class Trend(NamedTuple):
    """The trend of a loss.

    Attributes:
        word: at chance, worse than chance, learning, flat, rising or too early.
        reason: What the word rests on.
    """

    word: str
    reason: str


def trend_of(losses: Sequence[float], *, targets: int, chance: float | None = None) -> Trend | None:
    """Return the trend of the logged losses of an attempt.

    Args:
        losses: Finite losses in nats, the latest last. Only the last `MOST` count.
        targets: Training targets of a logged step.
        chance: ln V, the loss of equal probabilities for V tokens; None if V is unknown.

    Returns:
        The trend, or None for a single loss below chance.

    Example:
        >>> trend_of([4.1, 3.2, 2.9, 2.7], targets=4640)
        Trend(word='learning', reason='loss falls over 4 logged steps')
        >>> trend_of([2.6, 2.5, 2.6, 2.5, 3.9], targets=4640)  # one noisy step
        Trend(word='flat', reason='no clear change over 5 logged steps')
        >>> trend_of([6.98], targets=4640, chance=math.log(1026))
        Trend(word='at chance', reason='guessing gives ln V = 6.93')
        >>> trend_of([9.4, 8.1, 7.7], targets=4640, chance=math.log(1026))
        Trend(word='learning', reason='loss falls over 3 logged steps, still above ln V = 6.93')
    """
    last = list(losses[-MOST:])
    if not last:
        return None
    if chance is not None and abs(last[-1] - chance) <= _NEAR_CHANCE:
        return Trend("at chance", f"guessing gives ln V = {chance:.2f}")
    trend = _early_trend(last, targets) if len(last) < _FEWEST else _tested_trend(last, targets)
    if chance is None or last[-1] < chance:
        return trend
    if trend is None or trend.word not in _CLEAR:
        return Trend("worse than chance", f"guessing gives ln V = {chance:.2f}")
    return Trend(trend.word, f"{trend.reason}, still above ln V = {chance:.2f}")


def _early_trend(losses: Sequence[float], targets: int) -> Trend | None:
    if len(losses) == 1:
        return None
    falls = all(before > after for before, after in pairwise(losses))
    if falls and losses[0] - losses[-1] >= _margin(losses[0], targets):
        return Trend("learning", f"loss falls over {len(losses)} logged steps")
    return Trend("too early", f"{len(losses)} logged steps")


def _tested_trend(losses: Sequence[float], targets: int) -> Trend:
    recent, score = losses[-_FEWEST:], _score(losses)
    rises = all(before < after for before, after in pairwise(recent))
    if rises and recent[-1] - recent[0] >= _margin(recent[0], targets):
        return Trend("rising", f"loss rises over {_FEWEST} logged steps")
    if score >= _RISES:
        return Trend("rising", f"loss rises over {len(losses)} logged steps")
    if score <= _FALLS:
        return Trend("learning", f"loss falls over {len(losses)} logged steps")
    return Trend("flat", f"no clear change over {len(losses)} logged steps")


def _margin(loss: float, targets: int) -> float:
    """Return the least difference of two losses that counts.

    The cross-entropy of a slot has a standard deviation of about 1 nat, and the difference of two means over n slots
    one of sqrt(2 / n).
    """
    return max(_MARGIN * abs(loss), _DEVIATIONS * math.sqrt(2 / max(1, targets)))


def _score(losses: Sequence[float]) -> float:
    """Return the standard score of the test of Mann and Kendall, with its correction for continuity.

    Example:
        >>> round(_score([4.0, 3.0, 2.0, 1.0]), 2), _score([1.0, 2.0, 2.0, 1.0])
        (-1.7, 0.0)
    """
    rises = sum((after > before) - (after < before) for before, after in combinations(losses, 2))
    number = len(losses)
    deviation = math.sqrt(number * (number - 1) * (2 * number + 5) / 18)
    return math.copysign(max(0, abs(rises) - 1), rises) / deviation
