"""Statistics of the checks: exact, with no more false alarms than declared."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from higgs_audio_trainer.diagnoses.finding import Finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.statistics import ALPHA, binomial_tail, clearly_beats, significantly_above

DRAWS = 10_000


def exact_tail(least, draws, rate):
    terms = (math.comb(draws, i) * rate**i * (1 - rate) ** (draws - i) for i in range(max(0, least), draws + 1))
    return float(sum(terms, Fraction(0)))


@given(st.integers(0, 60), st.integers(-2, 62), st.integers(0, 40))
def test_the_tail_is_that_of_the_binomial_distribution(draws, least, fortieths):
    """The tail equals the sum of its terms in exact fractions, also far from the mean."""
    expected = exact_tail(least, draws, Fraction(fortieths, 40))
    assert binomial_tail(least, draws, fortieths / 40) == pytest.approx(expected, rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("least", [500_000, 500_500, 502_500])
def test_the_approximation_goes_on_where_the_exact_sum_ends(least):
    """At a million draws, the exact tail and the approximation one draw further differ by little."""
    exact, approximate = binomial_tail(least, 1_000_000, 0.5), binomial_tail(least, 1_000_001, 0.5)
    assert approximate == pytest.approx(exact, rel=0.02)


def test_huge_counts_take_no_time():
    """Counts beyond any run are answered."""
    assert binomial_tail(2**52, 2**53, 0.5) == pytest.approx(0.5, abs=1e-6)


def test_the_sign_test_alarms_no_more_often_than_declared():
    """The test separates equally good answers at the declared rate in 10,000 pairs, and not far more rarely."""
    random, alpha = np.random.default_rng(0), 1e-2
    contested = random.integers(100, 500, DRAWS)
    wins = random.binomial(contested, 0.5)
    pairs = zip(wins.tolist(), (contested - wins).tolist(), strict=True)
    separated = sum(clearly_beats(won, lost, alpha=alpha) for won, lost in pairs)
    assert 0.4 * alpha * DRAWS <= separated <= alpha * DRAWS + 3 * math.sqrt(alpha * DRAWS)


def test_counts_rise_above_their_rate_no_more_often_than_declared():
    """Counts drawn at their own rate exceed the rate as often as declared, in 10,000 draws."""
    random, alpha = np.random.default_rng(1), 1e-2
    draws, rates = random.integers(200, 2000, DRAWS), random.uniform(0.02, 0.9, DRAWS)
    counted = zip(random.binomial(draws, rates).tolist(), draws.tolist(), rates.tolist(), strict=True)
    above = sum(significantly_above(count, n, rate, alpha=alpha) for count, n, rate in counted)
    assert 0.4 * alpha * DRAWS <= above <= alpha * DRAWS + 3 * math.sqrt(alpha * DRAWS)


def test_what_is_clear_is_told():
    """Twenty wins in twenty slots are clear, and nineteen wins or a count equal to the rate are not."""
    assert clearly_beats(20, 0)
    assert not clearly_beats(19, 0)
    assert not clearly_beats(60, 40)
    assert significantly_above(200, 400, 0.25)
    assert not significantly_above(100, 400, 0.25)
    assert not significantly_above(5, 400, math.nan)
    assert 0.5**20 < ALPHA < 0.5**19


def findings(*codebooks, **changes):
    more = {"code": "dead", "severity": "warning", "modality": "audio"} | changes
    return [Finding(message=f"codebook {k}: bad", evidence={"loss": k}, codebook=k, **more) for k in codebooks]


def test_what_all_codebooks_share_is_said_once():
    """Findings of every codebook become a single finding with lists of figures."""
    (one,) = per_codebook(findings(1, 0, 2), 3)
    assert (one.codebook, one.modality, one.severity) == (None, "audio", "warning")
    assert one.message == "in all 3 codebooks; for example, codebook 0: bad"
    assert one.evidence == {"codebooks": [0, 1, 2], "loss": [0, 1, 2]}


@pytest.mark.parametrize("num_codebooks", [None, 1, 2, 4, 2**53])
def test_what_only_some_codebooks_share_is_said_of_each(num_codebooks):
    """Findings are not merged where a codebook has no finding, is the only codebook, or K is unknown."""
    some = findings(0) if num_codebooks == 1 else findings(0, 1, 2)
    assert list(per_codebook(some, num_codebooks)) == some


def test_findings_of_another_kind_stay_apart():
    """Findings without a codebook, or of another code or severity, are not merged."""
    other = [*findings(None), *findings(0, code="order"), *findings(1, severity="error")]
    assert list(per_codebook(other, 2)) == other
    assert len(list(per_codebook([*other, *findings(0, 1)], 2))) == 4
