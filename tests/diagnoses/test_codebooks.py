from dataclasses import replace

import pytest

from higgs_audio_trainer.diagnoses.codebooks import CHECKS
from tests.diagnoses.builders import counts, history, logged_step, step

K = 4
DEAD = {"num_correct": 18, "unigram_accuracy": 0.05, "unigram_loss": 3.0}  # 4.5 % of 400
COLLAPSED = {"top_prediction": 7, "top_prediction_share": 0.95, "num_correct": 20}


def run_of(changes, steps=(20, 40, 60), *, losses=None, **also):
    """Make due steps whose codebooks are healthy but for `changes`, by codebook; None is text."""
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
    """Nothing is found where all codebooks are right in half of the slots."""
    assert found(run_of({})) == []


def test_a_dead_codebook_is_named():
    """A codebook at its unigram baseline is named while the others learned."""
    (finding,) = found(run_of({3: DEAD}))
    assert (finding.code, finding.severity, finding.codebook) == ("dead_codebook", "warning", 3)
    assert finding.message == (
        "codebook 3: accuracy 4.5%, no better than 5.0% for always predicting the most frequent token, while 3 of the "
        "other 3 codebooks learned. Usually the codes of this codebook are shuffled or come from another codec. Look "
        "at the predictions with --log_codebooks 3."
    )


def test_one_due_step_is_not_enough():
    """A codebook that is at its baseline only now, or only at the due step before, is not dead."""
    before, now = run_of({3: DEAD}), run_of({})
    assert found([*now[:2], before[2]]) == []
    assert found([*before[:2], now[2]]) == []
    assert found(before[:1]) == []


def test_a_codebook_is_not_dead_while_the_others_have_not_learned():
    """Where most codebooks are at their baseline the model is young, and none is dead."""
    assert found(run_of({1: DEAD, 2: DEAD, 3: DEAD})) == []
    assert keys(run_of({2: DEAD, 3: DEAD})) == [("dead_codebook", "warning", 2), ("dead_codebook", "warning", 3)]


@pytest.mark.parametrize("alive", [{"num_correct": 60}, {"unigram_loss": 3.5}, {"num_targets": 49, "num_correct": 2}])
def test_a_codebook_with_any_skill_or_few_targets_is_not_dead(alive):
    """More right than the baseline explains, a loss below the entropy of the labels, or few targets: not dead."""
    assert found(run_of({3: DEAD | alive})) == []


def test_an_entropy_of_too_few_labels_is_not_trusted():
    """A hard codebook in a small batch, where most labels occur once, is not dead: its entropy is far too low."""
    few = DEAD | {"num_targets": 60, "num_correct": 2}
    losses = [(4.0,) * K] * 3
    assert keys(run_of({3: few | {"unigram_loss": 3.3}}, losses=losses)) == [("dead_codebook", "warning", 3)]
    assert found(run_of({3: few | {"unigram_loss": 3.9}}, losses=losses)) == []


def test_a_codebook_whose_loss_still_falls_is_not_dead():
    """A codebook that lags behind the others but learns is left alone."""
    falling = [(3.0, 3.1, 3.2, loss) for loss in (5.0, 4.5, 4.0)]
    assert found(run_of({3: DEAD}, losses=falling)) == []


def test_a_dead_first_codebook_is_said_twice():
    """A dead codebook 0 below learning ones has a code of its own, beside `dead_codebook`."""
    assert keys(run_of({0: DEAD})) == [("dead_codebook", "warning", 0), ("codebook_order", "warning", 0)]


def test_a_codebook_that_says_one_token_has_collapsed():
    """One token in 95 % of the predictions, where labels vary, is found."""
    (finding,) = found(run_of({1: COLLAPSED}))
    assert (finding.code, finding.severity, finding.codebook) == ("collapsed", "warning", 1)
    assert "95% of the predictions are token 7, but the most frequent label is only 5% of the labels" in finding.message


def test_a_collapsed_text_is_found_too():
    """Text may collapse as well."""
    assert [(one.code, one.modality) for one in found(run_of({None: COLLAPSED}))] == [("collapsed", "text")]


def test_collapse_everywhere_is_said_once():
    """A model that says one token in every codebook is one finding."""
    assert keys(run_of(dict.fromkeys(range(K), COLLAPSED))) == [("collapsed", "warning", None)]


def test_a_constant_stretch_is_no_collapse():
    """One token everywhere is right where it is the label of most slots."""
    assert found(run_of({1: COLLAPSED | {"unigram_accuracy": 0.6}})) == []


@pytest.mark.parametrize("steps", [(1,), (50, 60), (5, 10, 15)])
def test_a_young_model_has_not_collapsed(steps):
    """Every model says its most frequent token at first: nothing before step 50 and the third due step."""
    assert found(run_of(dict.fromkeys(range(K), COLLAPSED), steps)) == []


def on_random_weights(logged):
    """Look for what is found where the base model was never trained."""
    past = history(*logged[:-1], num_codebooks=K, base_is_random=True)
    return [finding for check in CHECKS for finding in check(logged[-1], past)]


def test_random_weights_may_say_one_token_for_long():
    """They learn how often each token occurs before they learn more; but who was better before has collapsed."""
    everywhere = dict.fromkeys(range(K), COLLAPSED)
    assert on_random_weights(run_of(everywhere)) == []
    risen = [(3.0,) * K, (5.0,) * K, (5.1,) * K]
    (finding,) = on_random_weights(run_of(everywhere, losses=risen))
    assert (finding.code, finding.codebook) == ("collapsed", None)


def test_a_codebook_that_is_hardly_above_its_baseline_is_not_dead():
    """43 of 102 right, where the baseline is 28 %, is no proof of skill, and no sign of death either."""
    some = DEAD | {"num_targets": 102, "num_correct": 43, "unigram_accuracy": 0.284, "unigram_loss": 2.5}
    assert found(run_of({3: some}, losses=[(3.0,) * K] * 3)) == []


def test_a_collapse_beside_learned_codebooks_is_found_early():
    """One codebook that collapsed while the others learned is not young."""
    assert keys(run_of({1: COLLAPSED}, (5, 10))) == [("collapsed", "warning", 1)]


def test_a_change_of_the_one_token_is_no_collapse():
    """A model that swings from one token to another is still moving."""
    first, second = run_of({1: COLLAPSED}), run_of({1: COLLAPSED | {"top_prediction": 8}})
    assert found([*first[:2], second[2]]) == []


def test_a_falling_loss_is_no_collapse():
    """While the loss of the series falls nothing is said."""
    falling = [(3.0, loss, 3.2, 3.3) for loss in (5.0, 4.5, 4.0)]
    assert found(run_of({1: COLLAPSED}, losses=falling)) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_silent(loss):
    """NaN is the matter of `non_finite`."""
    assert found(run_of({1: COLLAPSED, 3: DEAD}, losses=[(loss,) * K] * 3, text_loss=loss)) == []


def test_a_log_with_fewer_losses_than_codebooks_is_silent():
    """A list that is too short is not read beyond its end."""
    assert found(run_of({1: COLLAPSED, 3: DEAD}, losses=[()] * 3)) == []
