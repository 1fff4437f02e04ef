from dataclasses import replace

import pytest

from higgs_audio_trainer.diagnoses.codebooks import CHECKS
from tests.diagnoses.builders import counts, history, logged_step, step

K = 4
DEAD = {"num_correct": 18, "unigram_accuracy": 0.05, "unigram_loss": 3.0}  # 4.5 % of 400
COLLAPSED = {"top_prediction": 7, "top_prediction_share": 0.95, "num_correct": 20}


def run_of(changes, steps=(20, 40, 60), *, losses=None, **also):
    """Return logged steps whose codebooks are healthy except for `changes` by codebook, where None is text."""
    return [
        logged_step(
            step(number, num_codebooks=K, **({"audio_loss_per_codebook": losses[index]} if losses else {}), **also),
            counted=tuple(
                replace(counts(k, number=number, num_codebooks=K), **changes.get(k, {})) for k in (None, *range(K))
            ),
            samples=(),
        )
        for index, number in enumerate(steps)
    ]


def found(logged):
    past = history(*logged[:-1], num_codebooks=K)
    return [finding for check in CHECKS for finding in check(logged[-1], past)]


def keys(logged):
    return [(finding.code, finding.severity, finding.codebook) for finding in found(logged)]


def test_healthy_codebooks_raise_nothing():
    """Codebooks with 50 % accuracy raise nothing."""
    assert found(run_of({})) == []


def test_a_dead_codebook_is_named():
    """A codebook at its unigram baseline is dead while the other codebooks learned."""
    (finding,) = found(run_of({3: DEAD}))
    assert (finding.code, finding.severity, finding.codebook) == ("dead_codebook", "warning", 3)
    assert finding.message == (
        "codebook 3: accuracy 4.5%, no better than 5.0% for always predicting the most frequent token, while 3 of the "
        "other 3 codebooks learned. Usually the codes of this codebook are shuffled or come from another codec. Look "
        "at the predictions with --log_codebooks 3."
    )


def test_one_due_step_is_not_enough():
    """A codebook at its baseline in only this or only the previous logged step is not dead."""
    before, now = run_of({3: DEAD}), run_of({})
    assert found([*now[:2], before[2]]) == []
    assert found([*before[:2], now[2]]) == []
    assert found(before[:1]) == []


def test_a_codebook_is_not_dead_while_the_others_have_not_learned():
    """While most codebooks are at their baseline, no codebook is dead."""
    assert found(run_of({1: DEAD, 2: DEAD, 3: DEAD})) == []
    assert keys(run_of({2: DEAD, 3: DEAD})) == [("dead_codebook", "warning", 2), ("dead_codebook", "warning", 3)]


@pytest.mark.parametrize("alive", [{"num_correct": 60}, {"unigram_loss": 3.5}, {"num_targets": 49, "num_correct": 2}])
def test_a_codebook_with_any_skill_or_few_targets_is_not_dead(alive):
    """A codebook above the baseline, with a loss below the entropy, or with few targets is not dead."""
    assert found(run_of({3: DEAD | alive})) == []


def test_an_entropy_of_too_few_labels_is_not_trusted():
    """A difficult codebook in a small batch of mostly unique labels is not dead, as the entropy is far too low."""
    few = DEAD | {"num_targets": 60, "num_correct": 2}
    losses = [(4.0,) * K] * 3
    assert keys(run_of({3: few | {"unigram_loss": 3.3}}, losses=losses)) == [("dead_codebook", "warning", 3)]
    assert found(run_of({3: few | {"unigram_loss": 3.9}}, losses=losses)) == []


def test_a_codebook_whose_loss_still_falls_is_not_dead():
    """A slow codebook that still learns is not dead."""
    falling = [(3.0, 3.1, 3.2, loss) for loss in (5.0, 4.5, 4.0)]
    assert found(run_of({3: DEAD}, losses=falling)) == []


def test_a_dead_first_codebook_is_said_twice():
    """A dead codebook 0 below learning codebooks raises `codebook_order` in addition to `dead_codebook`."""
    assert keys(run_of({0: DEAD})) == [("dead_codebook", "warning", 0), ("codebook_order", "warning", 0)]


def test_a_codebook_that_says_one_token_has_collapsed():
    """A codebook with a single token in 95 % of the predictions and varied labels has collapsed."""
    (finding,) = found(run_of({1: COLLAPSED}))
    assert (finding.code, finding.severity, finding.codebook) == ("collapsed", "warning", 1)
    assert "95% of the predictions are token 7, but the most frequent label is only 5% of the labels" in finding.message


def test_a_collapsed_text_is_found_too():
    """Text may collapse as well."""
    assert [(one.code, one.modality) for one in found(run_of({None: COLLAPSED}))] == [("collapsed", "text")]


def test_collapse_everywhere_is_said_once():
    """A collapse of every codebook is a single finding."""
    assert keys(run_of(dict.fromkeys(range(K), COLLAPSED))) == [("collapsed", "warning", None)]


def test_a_constant_stretch_is_no_collapse():
    """A constant prediction is correct where most labels are the same token."""
    assert found(run_of({1: COLLAPSED | {"unigram_accuracy": 0.6}})) == []


@pytest.mark.parametrize("steps", [(1,), (50, 60), (5, 10, 15)])
def test_a_young_model_has_not_collapsed(steps):
    """No collapse is reported before step 50 and the third logged step, as every model starts this way."""
    assert found(run_of(dict.fromkeys(range(K), COLLAPSED), steps)) == []


def on_random_weights(logged):
    """Return the findings for a base model with random weights."""
    past = history(*logged[:-1], num_codebooks=K, base_is_random=True)
    return [finding for check in CHECKS for finding in check(logged[-1], past)]


def test_random_weights_may_say_one_token_for_long():
    """Random weights first learn token frequencies, but a model that was better before has collapsed."""
    everywhere = dict.fromkeys(range(K), COLLAPSED)
    assert on_random_weights(run_of(everywhere)) == []
    risen = [(3.0,) * K, (5.0,) * K, (5.1,) * K]
    (finding,) = on_random_weights(run_of(everywhere, losses=risen))
    assert (finding.code, finding.codebook) == ("collapsed", None)


def test_a_codebook_that_is_hardly_above_its_baseline_is_not_dead():
    """An accuracy of 43 in 102 at a baseline of 28 % proves neither skill nor a dead codebook."""
    some = DEAD | {"num_targets": 102, "num_correct": 43, "unigram_accuracy": 0.284, "unigram_loss": 2.5}
    assert found(run_of({3: some}, losses=[(3.0,) * K] * 3)) == []


def test_a_collapse_beside_learned_codebooks_is_found_early():
    """A collapsed codebook beside learned codebooks is reported before step 50."""
    assert keys(run_of({1: COLLAPSED}, (5, 10))) == [("collapsed", "warning", 1)]


def test_a_change_of_the_one_token_is_no_collapse():
    """A model that moves from a constant token to another constant token still changes."""
    first, second = run_of({1: COLLAPSED}), run_of({1: COLLAPSED | {"top_prediction": 8}})
    assert found([*first[:2], second[2]]) == []


def test_a_falling_loss_is_no_collapse():
    """A series whose loss falls is not reported."""
    falling = [(3.0, loss, 3.2, 3.3) for loss in (5.0, 4.5, 4.0)]
    assert found(run_of({1: COLLAPSED}, losses=falling)) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_silent(loss):
    """NaN is left to `non_finite`."""
    assert found(run_of({1: COLLAPSED, 3: DEAD}, losses=[(loss,) * K] * 3, text_loss=loss)) == []


def test_a_log_with_fewer_losses_than_codebooks_is_silent():
    """Checks do not read beyond the end of a list of losses that is too short."""
    assert found(run_of({1: COLLAPSED, 3: DEAD}, losses=[()] * 3)) == []
