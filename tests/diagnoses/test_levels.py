"""Checks of the size of the losses."""

import math
from dataclasses import replace

import pytest

from higgs_audio_trainer.diagnoses import levels
from tests.builders import eval_result
from tests.diagnoses.builders import counts, history, logged_step, sample, shown, step

CHANCE = math.log(1026)


def found(checked, before=None):
    return [finding for check in levels.CHECKS for finding in check(checked, before or history())]


def at_chance(number, audio_loss=CHANCE, **changes):
    return logged_step(step(number, audio_loss=audio_loss, **changes))


def test_a_healthy_step_raises_nothing():
    """Losses well below chance and above zero raise nothing, nor do evaluations."""
    assert found(logged_step(step(1))) == []
    assert found(logged_step(step(200)), history(logged_step(step(1)), logged_step(step(100)))) == []
    assert found(logged_step(evaluation=eval_result(audio_loss=CHANCE))) == []


@pytest.mark.parametrize(("random", "severity"), [(False, "error"), (None, "warning")])
def test_a_pretrained_checkpoint_does_not_begin_at_chance(random, severity):
    """Chance level at step 1 is an error of a pretrained checkpoint, and a warning where the kind is unknown."""
    (one,) = found(at_chance(1), history(base_is_random=random))
    assert (one.code, one.severity, one.modality, one.codebook) == ("chance_level", severity, "audio", None)
    assert "6.93" in one.message
    assert "pretrained" in one.message


def test_a_step_without_samples_is_checked_too():
    """With `--log_samples 0` the size of the vocabulary is that of the run; unknown, it raises nothing."""
    bare = replace(at_chance(1), samples=())
    (one,) = found(bare, history(base_is_random=False, codebook_size=1026))
    assert (one.code, one.modality) == ("chance_level", "audio")
    assert found(bare, history(base_is_random=False)) == []


def test_a_text_without_weight_stays_at_chance():
    """Text with weight 0 is not checked, and audio is."""
    untrained = logged_step(step(1, text_loss=math.log(128256), audio_loss=CHANCE))
    one = found(untrained, history(base_is_random=False, text_loss_weight=0.0))
    assert [finding.modality for finding in one] == ["audio"]


def test_random_weights_begin_at_chance():
    """Step 1 at chance, or above it, raises nothing where the checkpoint declares random weights."""
    assert found(at_chance(1, 7.6), history(base_is_random=True)) == []


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({"text_loss": math.log(128256) - 0.1}, True),
        ({"text_loss": math.log(128256) - 0.2}, False),
        ({"text_loss": 14.0}, True),
        ({"text_loss": 11.2, "text_targets": 16}, True),
        ({"text_loss": 11.2, "text_targets": 7}, False),
        ({"text_loss": math.nan}, False),
        ({"text_loss": math.inf}, False),
    ],
)
def test_the_noise_of_chance_is_that_of_the_targets(changes, is_found):
    """Chance level allows three standard errors. Few slots, NaN and infinity raise nothing."""
    one = found(logged_step(step(1, **changes)), history(base_is_random=False))
    assert [finding.modality for finding in one] == (["text"] if is_found else [])


def later(losses, rates=(1e-5, 1e-4, 1e-4), numbers=(1, 60, 120), *, random=True):
    logged = [
        at_chance(number, loss, learning_rate=rate) for number, loss, rate in zip(numbers, losses, rates, strict=True)
    ]
    return found(logged[-1], history(*logged[:-1], base_is_random=random))


def test_chance_after_the_warm_up_is_an_error():
    """A loss that stays at chance level is an error, also of random weights."""
    (one,) = later((6.95, 6.93, 6.94))
    assert (one.code, one.severity) == ("chance_level", "error")
    assert "warm-up" in one.message


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": (7.6, 7.2, 6.95)},  # a fallen loss
        {"losses": (6.99, 6.97, 6.95)},  # a falling loss
        {"losses": (6.95, 6.93, 6.94), "rates": (1e-5, 1e-4, 2e-4)},  # a rising learning rate
        {"losses": (6.95, 6.93, 6.94), "numbers": (1, 50, 100)},
        {"losses": (6.95, 6.93, 6.94), "numbers": (1, 9, 20), "random": False},
        {"losses": (math.nan, 6.93, 6.94)},
        {"losses": (6.95, 6.93, 6.5)},
    ],
)
def test_a_run_that_may_still_learn_raises_nothing(changes):
    """The warm-up, early steps and falling losses raise nothing."""
    assert later(**changes) == []


def test_a_pretrained_run_is_judged_sooner():
    """Twenty steps at chance are enough for a pretrained checkpoint."""
    assert len(later((6.95, 6.93, 6.94), numbers=(1, 10, 21), random=False)) == 1


def leaking(number, losses=(0.001, 3.1), **changes):
    return logged_step(step(number, audio_loss_per_codebook=losses, **changes))


def test_a_loss_near_zero_at_once_is_an_error():
    """A codebook near zero at the first steps is too good, and all codebooks together are a single finding."""
    (one,) = found(leaking(1))
    assert (one.code, one.severity, one.codebook) == ("too_good", "error", 0)
    assert "same index" in one.message
    (every,) = found(leaking(1, (0.001, 0.002)))
    assert (every.codebook, every.modality) == (None, "audio")
    assert every.evidence["loss"] == [0.001, 0.002]
    assert [one.modality for one in found(logged_step(step(1, text_loss=0.01)))] == ["text"]


def test_what_can_be_learned_by_heart_is_not_too_good():
    """Later steps raise nothing, except during the first epoch."""
    assert found(leaking(11, epoch=2.0)) == []
    assert [one.code for one in found(leaking(500, epoch=0.5))] == ["too_good"]


@pytest.mark.parametrize("changes", [{"unigram_loss": 1.1}, {"unigram_loss": None}, {"num_targets": 29}])
def test_labels_that_hardly_vary_are_easy(changes):
    """A few control tokens, silence, or few slots may have a loss near zero."""
    easy = logged_step(step(1, audio_loss_per_codebook=(0.001, 3.1)), counted=(counts(0, **changes),))
    assert found(easy) == []


def test_logs_without_counts_are_compared_with_chance():
    """Without counts, audio with varied shown labels is compared with ln V, and text is not compared."""
    bad = step(1, audio_loss_per_codebook=(0.001, 3.1), text_loss=0.001)
    assert [(one.code, one.codebook) for one in found(logged_step(bad, counted=()))] == [("too_good", 0)]
    silence = shown([7] * 5, [7] * 5)
    assert found(logged_step(bad, counted=(), samples=(sample(0, first=silence, last=silence),))) == []
    assert found(logged_step(bad, counted=(), samples=())) == []
