import math

import numpy as np
import pytest

from higgs_audio_trainer.diagnoses.dynamics import CHECKS, _falls, exploding, plateau
from tests.builders import eval_result
from tests.diagnoses.builders import history, logged_step, step


def steps(losses, numbers=None, **changes):
    """Return logged steps with these total losses, by default at every 10th step."""
    numbers = numbers or [10 * (index + 1) for index in range(len(losses))]
    return [
        logged_step(step(number, loss=loss, **changes), counted=(), samples=())
        for number, loss in zip(numbers, losses, strict=True)
    ]


def found(logged, **run):
    past = history(*logged[:-1], **run)
    return [finding for check in CHECKS for finding in check(logged[-1], past)]


def keys(logged, **run):
    return [(finding.code, finding.severity) for finding in found(logged, **run)]


def test_a_training_that_learns_raises_nothing():
    """A falling loss with a little noise raises nothing at any step."""
    noise = np.random.default_rng(0).normal(0, 0.05, 40).tolist()
    logged = steps([4 * math.exp(-index / 20) + 0.5 + noise[index] for index in range(40)])
    assert [key for end in range(1, 31) for key in keys(logged[:end])] == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_an_error_that_names_it(value):
    """The message names the losses that are not finite, including codebooks."""
    (finding,) = found([logged_step(step(loss=value, audio_loss_per_codebook=(3.0, value)))])
    assert (finding.code, finding.severity) == ("non_finite", "error")
    assert finding.evidence == {"fields": ["loss", "loss of codebook 1"]}


def test_an_infinite_gradient_is_an_error_except_in_fp16():
    """In fp16 an infinite gradient is a note, as the gradient scaler skips the step."""
    logged = [logged_step(step(grad_norm=math.inf))]
    assert keys(logged) == [("non_finite", "error")]
    assert keys(logged, mixed_precision="bf16") == [("non_finite", "error")]
    assert keys(logged, mixed_precision="fp16") == [("non_finite", "note")]


def test_a_gradient_norm_that_is_not_computed_is_silent():
    """Null is not NaN."""
    assert found([logged_step(step(grad_norm=None))]) == []


@pytest.mark.parametrize(("loss", "explodes"), [(5.9, False), (6.0, True), (600.0, True)])
def test_a_loss_far_above_the_first_is_an_error(loss, explodes):
    """A loss of 1.5 times the first loss has exploded."""
    assert keys(steps([4.0, loss])) == ([("exploding", "error")] if explodes else [])


def test_a_small_loss_that_doubles_has_not_exploded():
    """A rise of less than one nat raises nothing."""
    assert found(steps([0.3, 1.2])) == []


@pytest.mark.parametrize(
    ("norms", "explodes"),
    [
        ([1, 1, 1, 1, 10], True),
        ([1, 1, 1, 1, 9], False),
        ([1, 10], False),
        ([1, 100], True),
        ([0.01, 0.01, 0.9], False),
    ],
)
def test_a_gradient_norm_far_above_its_median_is_a_warning(norms, explodes):
    """The bound is 10 times the median of four norms or 100 times an earlier norm, and small norms pass."""
    logged = [logged_step(step(index + 1, grad_norm=norm, loss=4 - 0.1 * index)) for index, norm in enumerate(norms)]
    assert keys(logged) == ([("exploding", "warning")] if explodes else [])


def test_no_gradient_at_all_is_an_error_unless_all_is_learned():
    """A gradient norm of exactly 0 is an error at a loss above zero."""
    assert keys([logged_step(step(grad_norm=0.0))]) == [("plateau", "error")]
    assert found([logged_step(step(grad_norm=0.0, loss=0.05))]) == []


def test_a_loss_that_never_fell_is_a_warning():
    """A loss that is unchanged after 30 steps at a constant learning rate is a warning."""
    flat = [4.0, 4.001, 3.999, 4.0, 4.001]
    assert keys(steps(flat)) == [("plateau", "warning")]
    assert found(steps(flat[:4])) == []
    assert found(steps(flat, [1, 2, 3, 4, 5])) == []


def test_a_loss_in_the_warm_up_may_stand_still():
    """A rising learning rate raises nothing."""
    rates = [1e-5, 2e-5, 3e-5, 4e-5, 5e-5]
    logged = [logged_step(step(10 * (index + 1), loss=4.0, learning_rate=rate)) for index, rate in enumerate(rates)]
    assert found(logged) == []


def test_the_steps_of_the_warm_up_are_not_counted():
    """A loss that is flat in the warm-up has 30 steps after the warm-up to fall."""
    rates = [1e-5 * min(index + 1, 6) for index in range(10)]
    logged = [logged_step(step(10 * (index + 1), loss=4.0, learning_rate=rate)) for index, rate in enumerate(rates)]
    assert [keys(logged[:end]) for end in range(1, 10)] == [[]] * 9
    assert keys(logged) == [("plateau", "warning")]


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03, 0.1, 0.3])
@pytest.mark.parametrize("fall", [0.03, 0.1])
def test_a_loss_that_falls_slowly_in_noise_raises_no_warning(fall, noise):
    """A fall of a few percent in 300 noisy steps raises no warning at any logged step, over 20 seeds."""
    for seed in range(20):
        errors = np.random.default_rng(seed).normal(0, noise, 30).tolist()
        past = history()
        for one in steps([3.5 * (1 - fall * index / 30) + errors[index] for index in range(30)]):
            assert [finding.severity for finding in plateau(one, past) if finding.severity != "note"] == []
            past.add(one)


def test_a_loss_that_learned_and_levelled_off_is_a_note():
    """Ten logged steps without a fall, after a fall, are a note."""
    assert keys(steps([8.0, 5.0] + [3.0, 3.1] * 5)) == [("plateau", "note")]
    assert found(steps([8.0, 5.0] + [3.0, 3.1] * 3)) == []


def test_the_trend_test_finds_trends_at_its_declared_rate():
    """5 % of 4,000 series without a trend seem to fall, within the binomial margin, and clear falls always do."""
    generator = np.random.default_rng(1)
    rate = np.mean([_falls(values) for values in generator.normal(size=(4000, 10)).tolist()])
    assert 0.02 < rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert all(_falls(values) for values in (generator.normal(0, 0.1, (100, 10)) - np.arange(10)).tolist())


def evaluations(losses, trained=(3.0, 2.0, 1.0, 0.5, 0.4)):
    """Return logged steps and evaluations in turn."""
    made = []
    for index, loss in enumerate(losses):
        number = 10 * (index + 1)
        figures = step(number, loss=trained[index], audio_loss=trained[index])
        made += [logged_step(figures, counted=(), samples=())]
        made += [logged_step(evaluation=eval_result(step=number, audio_loss=loss))]
    return made


def test_an_evaluation_loss_that_rises_while_training_falls_is_a_warning():
    """Three rising evaluations, 10 % above the best, are a warning with the best step."""
    (finding,) = found(evaluations([3.0, 2.0, 2.1, 2.2, 2.3]))
    assert (finding.code, finding.severity, finding.evidence["best_step"]) == ("overfit", "warning", 20)


@pytest.mark.parametrize("losses", [[2.0, 2.5], [3.0, 2.0, 2.5, 2.4, 2.6], [2.0, 2.05, 2.1, 2.15], [3.0, 2.0, 1.0]])
def test_an_evaluation_loss_that_does_not_clearly_rise_is_silent(losses):
    """Two evaluations, a dip between, less than 10 %, or a fall raise nothing."""
    assert found(evaluations(losses)) == []


def test_an_evaluation_that_rises_with_the_training_loss_is_not_overfit():
    """A training loss that rises too has another cause."""
    assert found(evaluations([2.0, 2.2, 2.4], [1.0, 1.1, 1.2])) == []


def test_evaluations_that_are_not_finite_are_silent():
    """NaN counts as no rise."""
    assert found(evaluations([2.0, 2.2, math.nan])) == []


@pytest.mark.parametrize(("targets", "faults"), [(2, 0), (400, 1)])
def test_a_loss_over_few_targets_may_rise(targets, faults):
    """A loss over a handful of targets is uncertain, and rises by chance."""
    few = {"text_targets": targets, "audio_targets": 0}
    before = history(logged_step(step(10, loss=2.7, **few)))
    found = [f for f in exploding(logged_step(step(20, loss=4.3, **few)), before) if "loss rose" in f.message]
    assert len(found) == faults
