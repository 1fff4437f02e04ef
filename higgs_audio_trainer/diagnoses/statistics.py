"""Exact significance tests for the checks, with one declared rate of false alarms."""

from __future__ import annotations

import math

#: Rate of false alarms of one question. A run asks about five offsets of nine series at some thousand logged steps.
#: With fewer than 1e5 questions, the chance of a single false alarm in a whole run stays below 10 %, however dependent
#: the questions are (Bonferroni: the sum of the questions' rates).
ALPHA = 1e-6

_MOST_EXACT = 1_000_000  # draws; beyond, the normal approximation is as good and constant in time
_NEGLIGIBLE = 1e-18  # relative size of a term that changes no float


def binomial_tail(least: int, draws: int, rate: float) -> float:
    """Return the exact upper tail of the binomial distribution, P(X >= least).

    The terms C(n, i) p^i (1-p)^(n-i) are summed outwards from `least`. Each term follows from its predecessor by the
    ratio (n-i) p / ((i+1) (1-p)), and the first from the logarithms of the factorials. Below the mean the lower tail is
    summed instead. Beyond a million draws the normal approximation with continuity correction is used. See Clopper and
    Pearson, Biometrika 26 (1934), and Feller, An Introduction to Probability Theory, vol. 1, VI.3.

    Args:
        least: Number of successes k.
        draws: Number of draws n, at least 0.
        rate: Success probability p of each draw, 0..1.

    Example:
        >>> round(binomial_tail(2, 3, 0.5), 9)  # 4 of the 8 outcomes of three coins
        0.5
    """
    if least <= 0:
        return 1.0
    if least > draws or rate <= 0:
        return 0.0
    if rate >= 1:
        return 1.0
    if draws > _MOST_EXACT:
        deviation = math.sqrt(draws * rate * (1 - rate))
        return math.erfc((least - 0.5 - draws * rate) / deviation / math.sqrt(2)) / 2
    if least > draws * rate:
        return min(1.0, _outwards(least, draws, rate))
    return max(0.0, 1 - _outwards(draws - least + 1, draws, 1 - rate))


def _outwards(least: int, draws: int, rate: float) -> float:
    """Sum the terms from `least` upwards, where the terms fall."""
    odds = rate / (1 - rate)
    log_ways = math.lgamma(draws + 1) - math.lgamma(least + 1) - math.lgamma(draws - least + 1)
    term = math.exp(log_ways + least * math.log(rate) + (draws - least) * math.log1p(-rate))
    total = 0.0
    for index in range(least, draws + 1):
        total += term
        term *= (draws - index) * odds / (index + 1)
        if term <= total * _NEGLIGIBLE:
            break
    return total


def clearly_beats(wins: int, losses: int, *, alpha: float = ALPHA, least: int = 20) -> bool:
    """Return True if the first of two answers is better than the second, by the one-sided exact sign test.

    Only slots with exactly one correct answer count. For two equally good answers the wins are binomial with
    n = wins + losses and p = 1/2, so the test is P(X >= wins) <= alpha. See Dixon and Mood, JASA 41 (1946), and
    McNemar, Psychometrika 12 (1947), whose test this is in its exact form.

    Args:
        wins: Slots where only the first answer is correct.
        losses: Slots where only the second answer is correct.
        alpha: Rate of false alarms.
        least: Smallest number of wins and losses together.

    Example:
        >>> clearly_beats(20, 0), clearly_beats(19, 0), clearly_beats(60, 40)
        (True, False, False)
    """
    return wins + losses >= least and binomial_tail(wins, wins + losses, 0.5) <= alpha


def significantly_above(count: int, draws: int, rate: float, *, alpha: float = ALPHA) -> bool:
    """Return True if `count` of `draws` exceeds the count that a rate explains, P(X >= count | draws, rate) <= alpha.

    Example:
        >>> significantly_above(200, 400, 0.25), significantly_above(100, 400, 0.25)
        (True, False)
    """
    return 0 < count <= draws and math.isfinite(rate) and binomial_tail(count, draws, rate) <= alpha
