"""Checks of the alignment: shifted labels are named, repeated labels are not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.diagnoses import alignment, levels, stop_tokens
from higgs_audio_trainer.diagnoses.alignment import copies_input, preferred_token, shifted_alignment
from higgs_audio_trainer.diagnoses.history import History, Run, ShownSlots
from higgs_audio_trainer.events import EvalResult, PredictionSample, TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep
from tests.builders import _of, eval_result
from tests.diagnoses.builders import counts, history, logged_step, sample, shown, step

DRAWS = 10_000
SLOTS = 64


def codes(checked, before=None):
    before = before or history()
    return [(f.code, f.codebook) for check in alignment.CHECKS for f in check(checked, before)]


def of_codebook_0(**changes):
    return logged_step(counted=(counts(), counts(0, **changes), counts(1)))


def test_a_healthy_step_raises_nothing():
    """Labels in place with 50 % accuracy raise nothing, nor do old logs and evaluations."""
    assert codes(logged_step(), history(logged_step(step(10)))) == []
    assert codes(logged_step(counted=()), history(logged_step(step(10), counted=()))) == []
    assert codes(logged_step(evaluation=eval_result())) == []


@pytest.mark.parametrize(("place", "offset", "words"), [(1, -1, "same index"), (3, 1, "the loss shifts them again")])
def test_shifted_labels_are_named(place, offset, words):
    """Labels at another offset are an error from the first step, and the message names the offset."""
    matches = [20] * 5
    matches[place] = 396
    (found,) = shifted_alignment(of_codebook_0(label_matches=tuple(matches)), history())
    assert (found.severity, found.codebook, found.evidence["offset"]) == ("error", 0, offset)
    assert "396 of 400 labels equal " in found.message
    assert "only 20 the next token" in found.message
    assert words in found.message
    assert "\n" not in found.message


def test_short_sequences_are_named_too():
    """The labels at the ends of short sequences have no token to fit, and the offset is still named."""
    short = step(samples={f"s{index}": "0" for index in range(50)})
    bad = counts(label_matches=(10, 10, 60, 300, 10))
    (found,) = shifted_alignment(logged_step(short, counted=(bad,)), history())
    assert found.evidence["offset"] == 1


def test_random_weights_may_predict_anything_at_first():
    """The predictions of random weights are evidence after 100 steps; labels out of place are from the first."""
    copying = counts(
        number=1, offset_matches=(0, 0, 0, 0, 370), offset_correct=(0,) * 5, offset_surplus=(0, 0, 0, 0, 370.0)
    )
    for number, base_is_random, expected in (
        (1, True, set()),
        (101, True, {"copies_input"}),
        (1, None, {"copies_input"}),
    ):
        checked = logged_step(step(number), counted=(copying,))
        names = {name for name, _ in codes(checked, history(base_is_random=base_is_random))}
        assert names & {"copies_input"} == expected
    wrong = logged_step(step(1), counted=(counts(number=1, label_matches=(4, 4, 5, 4, 4)),))
    assert codes(wrong, history(base_is_random=True)) == [("shifted_alignment", None)]


def test_shuffled_labels_have_no_offset():
    """Labels that fit at no offset are an error without an offset, also in all codebooks at once."""
    bad = {"label_matches": (4, 4, 5, 4, 4)}
    (found,) = shifted_alignment(logged_step(counted=(counts(0, **bad), counts(1, **bad))), history())
    assert (found.codebook, found.evidence["offset"]) == (None, [None, None])
    assert "shuffled" in found.message


@pytest.mark.parametrize(("fitting", "faults"), [(396, 0), (395, 1)])
def test_a_hundredth_of_the_labels_may_be_out_of_place(fitting, faults):
    """Up to 1 % of the labels may be out of place."""
    assert len(codes(of_codebook_0(label_matches=(9, 9, fitting, 9, 9)))) == faults


def test_a_constant_stretch_raises_nothing():
    """Labels of silence fit at every offset, including their own."""
    constant = {"label_matches": (392, 396, 400, 396, 392), "offset_contested": (8, 4, 4, 8, 4)}
    quiet = constant | {"offset_matches": (8, 4, 4, 8, 4), "offset_correct": (0,) * 5, "offset_surplus": (9.0,) * 5}
    assert codes(of_codebook_0(**quiet)) == []


def test_labels_of_a_constant_stretch_that_are_out_of_place_are_not_given_an_offset():
    """An offset that fits hardly better than offset 0 is not named."""
    (found,) = shifted_alignment(of_codebook_0(label_matches=(380, 391, 390, 380, 380)), history())
    assert found.evidence["offset"] is None


def predicted(place, **changes):
    columns = {
        "offset_matches": [6, 8, 8, 6, 8],
        "offset_correct": [4] * 5,
        "offset_surplus": [1.5, -2.0, 0.5, 1.0, -2.5],
    }
    columns["offset_matches"][place] = 300
    columns["offset_surplus"][place] = 200.0
    return {name: tuple(column) for name, column in columns.items()} | changes


@pytest.mark.parametrize(("place", "offset"), [(0, -2), (1, -1), (2, 1), (3, 2), (4, -1)])
def test_predictions_of_another_place_are_named(place, offset):
    """Predictions of a neighbouring token are an error, and predictions of the input also copy the input."""
    checked = of_codebook_0(**predicted(place))
    (found,) = shifted_alignment(checked, history())
    assert found.evidence["offset"] == offset
    copied = list(copies_input(checked, history()))
    assert [finding.codebook for finding in copied] == ([0] if offset == -1 else [])
    assert all("300 of 37" in finding.message for finding in [found, *copied])


@pytest.mark.parametrize(
    "changes",
    [
        {"offset_surplus": (0.0,) * 5},  # the probability of repetition equals the actual rate
        {"offset_correct": (160,) * 5},  # the label is correct half as often
        {"offset_contested": (29,) * 5},
        {"offset_contested": (4000,) * 5},
        {"stop_targets": 280},  # as many ends of sequences as would explain the copies
        {"offset_matches": (1, 2)},
        {"offset_surplus": (float("nan"),) * 5},
        {"num_targets": 0},
    ],
)
def test_what_is_not_clear_raises_nothing(changes):
    """Each condition of the test is necessary, and missing figures raise nothing."""
    assert codes(of_codebook_0(**predicted(4, **changes))) == []


def test_a_clear_case_is_found_at_a_small_step():
    """Thirty slots are enough."""
    few = {name: (0, 0, 0, 0, value) for name, value in [("offset_contested", 30), ("offset_matches", 28)]}
    surplus = {"offset_surplus": (0.0, 0.0, 0.0, 0.0, 25.0), "offset_correct": (0,) * 5}
    assert preferred_token(counts(0, num_targets=36, stop_targets=1, **few, **surplus)) == 4


def counted(labels, predictions, given):
    """Yield counts as extraction does, over [D, N] draws of sequences.

    `given` returns the probability of each label's neighbour. The input is the previous label and so has offset -1.
    """
    columns = {"contested": [], "matches": [], "correct": [], "surplus": []}
    for offset in (-2, -1, 1, 2, -1):
        there = slice(-offset, None) if offset < 0 else slice(None, -offset)
        other = labels[:, :offset] if offset < 0 else labels[:, offset:]
        label, guess = labels[:, there], predictions[:, there]
        differs = label != other
        columns["contested"].append(differs.sum(1))
        columns["matches"].append((differs & (guess == other)).sum(1))
        columns["correct"].append((differs & (guess == label)).sum(1))
        columns["surplus"].append(given(other) - (~differs).sum(1))
    arrays = {f"offset_{name}": np.stack(column, 1).tolist() for name, column in columns.items()}
    for row in zip(*arrays.values(), strict=True):
        figures = dict(zip(arrays, map(tuple, row), strict=True))
        yield counts(0, num_targets=labels.shape[1], stop_targets=1, **figures)


def labels_of(random, repeated, size):
    """Return random labels that repeat the previous label at a rate."""
    fresh = random.integers(0, size, (DRAWS, SLOTS))
    repeats = random.random((DRAWS, SLOTS)) < repeated
    for slot in range(1, SLOTS):
        fresh[:, slot] = np.where(repeats[:, slot], fresh[:, slot - 1], fresh[:, slot])
    return fresh


@pytest.mark.parametrize("size", [4, 50])
@pytest.mark.parametrize("repeated", [0.0, 0.6])
def test_random_predictions_never_alarm(size, repeated):
    """No competing token wins in 10,000 draws of random predictions."""
    random = np.random.default_rng(0)
    labels = labels_of(random, repeated, size)
    drawn = counted(labels, random.integers(0, size, labels.shape), lambda other: other.shape[1] * np.full(DRAWS, 0.9))
    assert all(preferred_token(one) is None for one in drawn)


def test_a_constant_prediction_of_short_sequences_never_alarms():
    """A constant prediction of the last token in 64 sequences of five labels does not fit the next label."""
    figures = {"offset_contested": (0, 0, 256, 0, 0), "offset_matches": (0, 0, 64, 0, 0), "offset_correct": (0,) * 5}
    figures |= {"num_targets": 320, "offset_surplus": (0.0, 0.0, 60.0, 0.0, 0.0)}
    assert preferred_token(counts(**figures, stop_targets=64)) is None
    assert preferred_token(counts(**figures, stop_targets=0, masked={"stop": 64})) is None
    assert preferred_token(counts(**figures, stop_targets=0)) == 2  # the same counts from a few long sequences


def test_a_model_that_expects_repetition_never_alarms():
    """A calibrated model that always predicts the previous token is never accused of copying, in 10,000 draws."""
    random = np.random.default_rng(2)
    labels = labels_of(random, 0.6, 50)
    copies = np.concatenate([labels[:, :1], labels[:, :-1]], 1)
    expected = 0.6 + 0.4 / 50
    drawn = list(counted(labels, copies, lambda other: other.shape[1] * np.full(DRAWS, expected)))
    neighbours = [index in (1, 4) for index in range(5)]  # other places have another calibrated probability
    kept = [
        [value if near else 0.0 for value, near in zip(one.offset_surplus, neighbours, strict=True)] for one in drawn
    ]
    found = sum(
        preferred_token(counts(0, **{name: getattr(one, name) for name in COLUMNS}, offset_surplus=tuple(surplus)))
        is not None
        for one, surplus in zip(drawn, kept, strict=True)
    )
    assert found == 0
    assert all(one.offset_matches[4] > 2 * one.offset_correct[4] for one in drawn)  # the argmax does copy


@pytest.mark.parametrize("most", [0.6, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("samples", [1, 2, 8])
def test_a_batch_that_repeats_less_than_the_data_never_alarms(most, samples):
    """Samples repeat at rates from zero to nearly one, and a model calibrated over all samples meets quiet batches."""
    random = np.random.default_rng(3)
    for rates in random.uniform(0, most, (500, samples)):
        repeats = (random.random((samples, 60)) < rates[:, None]).sum()
        contested = 60 * samples - int(repeats)
        columns = {"offset_contested": contested, "offset_matches": contested, "offset_correct": 0}
        columns["offset_surplus"] = 60 * samples * most / 2 - float(repeats)
        only_the_input = {name: (0, 0, 0, 0, value) for name, value in columns.items()}
        assert preferred_token(counts(0, num_targets=60 * samples, **only_the_input)) is None


COLUMNS = ("num_targets", "stop_targets", "offset_contested", "offset_matches", "offset_correct")


def copied_sample(codebook=0, **changes):
    first = shown([11, 12, 13, 14, 15], [1, 11, 12, 13, 14])
    last = shown([21, 22, 23, 24, 25], [2, 21, 22, 23, 24], [2, 21, 22, 23, 24], start=30)
    return sample(codebook, first=first, last=last, **changes)


def test_copies_are_seen_in_the_samples_alone():
    """A log without counts shows copies after enough slots."""
    one, two = (
        logged_step(samples=(copied_sample(),), counted=()),
        logged_step(step(10), samples=(copied_sample(),), counted=()),
    )
    assert codes(one) == []
    assert codes(one, history(two)) == [("copies_input", 0)]


def test_counts_may_deny_what_few_slots_show():
    """Copies in the samples are no evidence against a model that copies everywhere with calibrated probability."""
    both = (copied_sample(), copied_sample())
    unsure = replace(counts(0), offset_surplus=(0.0,) * 5)
    unsure = replace(unsure, offset_matches=unsure.offset_contested, offset_correct=(0,) * 5)
    assert codes(logged_step(samples=both, counted=(unsure,))) == []
    assert codes(logged_step(samples=both)) == [("copies_input", 0)], (
        "counts that know of no copies do not speak of these slots"
    )
    expects = counts(0, offset_surplus=(0.0, 0.0, 0.0, 0.0, 90.0))
    assert codes(logged_step(samples=both, counted=(expects,))) == [("copies_input", 0)]


@pytest.mark.parametrize(("labels", "found"), [([1, 2, 3, 4, 5], [("shifted_alignment", 1)]), ([7] * 5, [])])
def test_labels_equal_to_their_inputs_are_seen_in_the_samples_alone(labels, found):
    """A log without counts shows labels equal to the inputs, except labels of silence."""
    window = shown(labels, labels, labels)
    same = sample(1, first=window, last=window)
    assert codes(logged_step(samples=(same, same), counted=())) == found
    assert codes(logged_step(samples=(same, same), counted=(counts(1),))) == []


def any_logged_step():
    samples, figures = st.lists(_of(PredictionSample), max_size=3).map(tuple), _of(TokenCounts)
    return st.builds(
        LoggedStep,
        step=st.integers(0, 30),
        train=st.none() | _of(TrainStep),
        counts=st.lists(figures, max_size=3).map(tuple),
        samples=samples,
        evaluation=st.none() | _of(EvalResult),
    )


def any_history():
    slots = st.integers(0, 50)
    series = st.dictionaries(st.sampled_from(["text", "audio 0"]), st.builds(ShownSlots, slots, slots, slots, slots))
    return st.builds(
        History,
        run=st.builds(Run, st.none() | st.integers(1, 3), st.none(), st.none() | st.booleans()),
        first=st.none() | _of(TrainStep),
        steps=st.lists(_of(TrainStep), max_size=3),
        counts=st.lists(_of(TokenCounts), max_size=3),
        shown=series,
    )


@settings(max_examples=150, deadline=None)
@given(any_logged_step(), any_history())
def test_anything_is_answered_and_alike_when_asked_again(checked, before):
    """For any log, the checks raise nothing, change nothing and give the same answers twice."""
    saved = repr((checked, before))
    for check in (*alignment.CHECKS, *levels.CHECKS, *stop_tokens.CHECKS):
        answers = [repr(list(check(checked, before))) for _ in range(2)]
        assert answers[0] == answers[1]
    assert repr((checked, before)) == saved
