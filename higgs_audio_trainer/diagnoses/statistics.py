"""The tests of significance that the checks use: exact, and with one declared rate of false alarms."""

from __future__ import annotations

import math

#: How often one question may be answered with a false alarm. A run asks about five offsets of nine series at each of
#: some thousand due steps: with fewer than 1e5 questions, the chance of a single false alarm in a whole run stays below
#: 10% whatever the dependence between them (Bonferroni: the sum of the questions' rates).
ALPHA = 1e-6

_MOST_EXACT = 1_000_000  # draws; beyond them the normal approximation is as good and takes no time
_NEGLIGIBLE = 1e-18  # a term that adds nothing to a float


def binomial_tail(least: int, draws: int, rate: float) -> float:
    """Return the exact upper tail of the binomial distribution, P(X >= least).

    The terms C(n, i) p^i (1-p)^(n-i) are summed outwards from `least`, each from the one before by the ratio
    (n-i) p / ((i+1) (1-p)); the first comes from the logarithms of the factorials. Below the mean the lower tail is
    summed instead, and beyond a million draws the normal approximation with its continuity correction is taken. See
    Clopper and Pearson, Biometrika 26 (1934), and Feller, An Introduction to Probability Theory, vol. 1, VI.3.

    Args:
        least: k.
        draws: n, at least 0.
        rate: p of each draw, 0..1.
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
    """Sum the terms from `least` up, where they fall."""
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
    """Tell whether one of two answers is better than the other: the one-sided exact sign test.

    Only the slots in which exactly one of the two is right count. Were both equally good, the wins would be binomial
    with n = wins + losses and p = 1/2; the answer is P(X >= wins) <= alpha. See Dixon and Mood, JASA 41 (1946), and
    McNemar, Psychometrika 12 (1947), of whose test it is the exact form.

    Args:
        wins: slots in which the one is right and the other is not.
        losses: the other way round.
        alpha: rate of false alarms.
        least: wins and losses that must be there.
    """
    return wins + losses >= least and binomial_tail(wins, wins + losses, 0.5) <= alpha


def significantly_above(count: int, draws: int, rate: float, *, alpha: float = ALPHA) -> bool:
    """Tell whether `count` of `draws` is more than a rate explains: P(X >= count | draws, rate) <= alpha."""
    return 0 < count <= draws and math.isfinite(rate) and binomial_tail(count, draws, rate) <= alpha
