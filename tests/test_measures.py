"""Measures of generated speech, against counts by hand."""

from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from higgs_audio_trainer.voice.measures import agreement_of, repeats_of, silence_of

CODES = arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(0, 12)), elements=st.integers(0, 2))


@given(CODES)
def test_repeats_equal_a_count_of_runs(codes):
    """The longest run and the number of repetitions are those of the frames in a row."""
    runs = [len(list(run)) for _, run in groupby(codes.T.tolist())]
    found = repeats_of(codes)
    assert found.longest_run == max(runs, default=0)
    assert np.isclose(found.share * max(codes.shape[1] - 1, 1), sum(runs) - len(runs))


@given(CODES, st.integers(0, 12), st.data())
def test_agreement_equals_a_count_of_places(codes, length, data):
    """Each place of the longer of the two counts."""
    label = data.draw(arrays(np.int64, (codes.shape[0], length), elements=st.integers(0, 2)))
    for ours, theirs, share in zip(codes.tolist(), label.tolist(), agreement_of(codes, label), strict=True):
        equal = sum(a == b for a, b in zip(ours, theirs, strict=False))
        assert np.isclose(share * max(len(ours), len(theirs), 1), equal)
    assert agreement_of(label, label) == (1.0 if length else 0.0,) * len(label)


def test_silence():
    """Faint noise is silence, speech is none, and nothing is silence."""
    noise = np.random.default_rng(0).normal(size=24_000).astype(np.float32)
    assert silence_of(1e-3 * noise, 24_000) == 1.0
    assert silence_of(0.1 * noise, 24_000) == 0.0
    assert silence_of(noise[:0], 24_000) == 1.0
