"""Checks of losses and gradients over time: not finite, exploding, flat, or rising on the evaluation alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from statistics import fmean, linear_regression, median

from higgs_audio_trainer.diagnoses.finding import Check, Finding, make_finding
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

_MOST_NAMES = 3  # in a message; the evidence holds all names
_LOSS_FACTOR, _LOSS_NATS = 1.5, 1.0  # above the first loss
_SPREAD = 2.0  # nats; standard deviation of the cross-entropy of a target
_GRAD_FACTOR, _GRAD_EARLIER = 10.0, 4  # multiple of the median, of at least this number of earlier norms
_GRAD_FACTOR_AT_ONCE = 100.0  # multiple of the median of fewer norms
_ABOVE_ALL = 2.0  # multiple of the largest norm: norms fall, and a later norm may reach the size of the first
_SMALL_GRAD_NORM = 1.0  # smaller norms are not even clipped
_MEMORIZED = 0.1  # nats; a lower loss cannot fall much further
_LARGEST_LOSS = 1e6  # nats; beyond, sums of squares may overflow, and the loss has exploded anyway
_FLAT_LOGGED_STEPS, _FLAT_STEPS = 5, 30
_FALL_FROM_FIRST = 0.01  # share of the first loss; a larger fall is progress
_FALL_SINCE_WARM_UP = 0.005  # share of the first loss; the test must rule out a larger fall
_FEW_QUANTILE, _MANY_QUANTILE = 10.2, 5.0  # of Student's t, one-sided 0.1 %, for 5 points and for 10 or more
_TREND_STEPS = 10
_TREND_QUANTILE = -1.645  # of the standard normal distribution, 5 %
_OVERFIT_EVALUATIONS, _OVERFIT_FACTOR = 3, 1.1


def non_finite(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find losses or gradient norms that are NaN or infinite.

    In fp16 training an infinite gradient norm alone is a note: the gradient scaler skips the step and lowers the scale.
    """
    train = logged.train
    if train is None:
        return
    figures = {"loss": train.loss, "text_loss": train.text_loss, "audio_loss": train.audio_loss}
    figures |= {f"loss of codebook {k}": loss for k, loss in enumerate(train.audio_loss_per_codebook)}
    names = [name for name, value in figures.items() if not math.isfinite(value)]
    of_gradient = train.grad_norm is not None and not math.isfinite(train.grad_norm)
    if names:
        cause, advice = (
            ("the base checkpoint is damaged or overflows in this dtype", "Check its weights, or try --dtype float32.")
            if logged.step <= 1
            else ("the learning rate is too high", "Restart from the last good checkpoint with a smaller --lr.")
        )
        yield make_finding(
            "non_finite",
            "error",
            f"not a finite number: {_listed(names)}. The adapters are unusable from this step on.",
            f"Usually {cause}.",
            advice,
            evidence={"fields": [*names, *(["grad_norm"] if of_gradient else [])]},
        )
    elif of_gradient:
        skipped = history.run.mixed_precision == "fp16"
        yield make_finding(
            "non_finite",
            "note" if skipped else "error",
            "grad_norm is not a finite number, although the losses are.",
            "fp16 training skips such a step. If this happens often, use --bf16 true."
            if skipped
            else "The adapters are unusable from now on. Usually the learning rate is too high. Use a smaller --lr.",
            evidence={"fields": ["grad_norm"]},
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def exploding(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a loss far above the first loss, and a gradient norm far above the earlier norms."""
    train, first = logged.train, history.first
    if train is None or first is None:
        return
    least = max(_LOSS_FACTOR * first.loss, first.loss + _LOSS_NATS, first.loss + _noise(first, train))
    if math.isfinite(train.loss) and math.isfinite(first.loss) and train.loss >= least:
        yield make_finding(
            "exploding",
            "error",
            f"the loss rose from {first.loss:.3g} to {train.loss:.3g}: the training destroys the model.",
            f"Usually the learning rate is too high ({train.learning_rate:.2g} at this step).",
            "Use a tenth of --lr.",
            evidence={"loss": train.loss, "first_loss": first.loss, "learning_rate": train.learning_rate},
        )
    earlier = [norm for step in history.steps if (norm := step.grad_norm) is not None and math.isfinite(norm)]
    norm = train.grad_norm
    if norm is None or not math.isfinite(norm) or not earlier or norm <= _SMALL_GRAD_NORM:
        return
    usual = median(earlier)
    factor = _GRAD_FACTOR if len(earlier) >= _GRAD_EARLIER else _GRAD_FACTOR_AT_ONCE
    if norm >= factor * usual > 0 and norm >= _ABOVE_ALL * max(earlier):
        yield make_finding(
            "exploding",
            "warning",
            f"grad_norm is {norm:.3g}, {norm / usual:.0f} times the median of the earlier steps ({usual:.3g}).",
            f"Usually the learning rate is too high ({train.learning_rate:.2g} at this step), or a sample is damaged.",
            "Use a smaller --lr, or check the samples of this step.",
            evidence={"grad_norm": norm, "median": usual, "learning_rate": train.learning_rate},
        )


def _noise(*steps: TrainStep) -> float:
    """Return three standard errors of the difference of two mean losses, nats. A few targets make a loss uncertain."""
    targets = [max(1, step.text_targets + step.audio_targets) for step in steps]
    return 3 * _SPREAD * math.sqrt(sum(1 / number for number in targets))


def plateau(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a flat loss: without a gradient, since the start, or lately."""
    train = logged.train
    if train is None or not _MEMORIZED < train.loss < _LARGEST_LOSS:
        return
    steps = [step for step in (*history.steps, train) if abs(step.loss) < _LARGEST_LOSS]
    if train.grad_norm == 0.0:
        yield make_finding(
            "plateau",
            "error",
            f"grad_norm is 0 at a loss of {train.loss:.3g}: the model learns nothing.",
            "Usually the adapters are frozen or detached from the loss.",
            "Check that the parameters of the adapters require a gradient.",
            evidence={"grad_norm": 0.0, "loss": train.loss},
        )
    elif _never_fell(steps, history):
        assert history.first is not None
        yield make_finding(
            "plateau",
            "warning",
            f"the loss has not fallen in {train.step - history.first.step} steps: {history.first.loss:.4g} at the "
            f"start, {train.loss:.4g} now.",
            f"Usually the learning rate is too low ({train.learning_rate:.2g} at this step), or the adapters are not "
            "trained.",
            "Use a larger --lr, and check grad_norm.",
            evidence={"loss": train.loss, "first_loss": history.first.loss, "learning_rate": train.learning_rate},
        )
    elif len(steps) >= _TREND_STEPS and not _falls([step.loss for step in steps[-_TREND_STEPS:]]):
        begin = steps[-_TREND_STEPS]
        yield make_finding(
            "plateau",
            "note",
            f"the loss has not fallen from step {begin.step} ({begin.loss:.4g}) to step {train.step} "
            f"({train.loss:.4g}).",
            "The model may have learned all it can.",
            "Listen to speech from a checkpoint.",
            evidence={"loss": train.loss, "since_step": begin.step, "loss_then": begin.loss},
        )


def _never_fell(steps: Sequence[TrainStep], history: History) -> bool:
    """Return True if the loss is where it began, and certainly has not fallen since the end of the warm-up.

    In a noisy log, the absence of a visible fall proves nothing. So the upper confidence limit of the fall must be
    below 0.5 % of the first loss. This is the limit of the slope of a least-squares line times the number of steps
    (Draper and Smith, "Applied Regression Analysis", 1.4).
    """
    first, now = history.first, steps[-1]
    after_warm_up = steps[max(range(len(steps)), key=lambda index: steps[index].learning_rate) :]
    span = now.step - after_warm_up[0].step
    if first is None or len(after_warm_up) < _FLAT_LOGGED_STEPS or span < _FLAT_STEPS:
        return False
    began, lately = first.loss, fmean(step.loss for step in steps[-3:])
    if not _MEMORIZED < began < _LARGEST_LOSS or lately < (1 - _FALL_FROM_FIRST) * began:
        return False
    return _greatest_fall(after_warm_up) < _FALL_SINCE_WARM_UP * began


def _greatest_fall(steps: Sequence[TrainStep]) -> float:
    """Return the upper confidence limit of the fall of the loss over these steps, nats."""
    times, losses = [float(step.step) for step in steps], [step.loss for step in steps]
    slope, intercept = linear_regression(times, losses)
    errors = [loss - intercept - slope * time for time, loss in zip(times, losses, strict=True)]
    variance = math.fsum(error**2 for error in errors) / (len(steps) - 2)
    deviation = math.sqrt(variance / math.fsum((time - fmean(times)) ** 2 for time in times))
    quantile = _FEW_QUANTILE if len(steps) < _TREND_STEPS else _MANY_QUANTILE
    return (quantile * deviation - slope) * (times[-1] - times[0])


def _falls(values: Sequence[float]) -> bool:
    """Return True if values fall, by the one-sided Mann-Kendall test at 5 %.

    S is the number of rising pairs minus the number of falling pairs. Without a trend, S is nearly normal with mean 0
    and variance n (n - 1) (2 n + 5) / 18 (Mann 1945, "Nonparametric tests against trend"). 1 corrects for continuity.

    Example:
        >>> _falls([3.0, 2.9, 2.7, 2.8, 2.5]), _falls([3.0, 2.9, 3.1, 2.8, 3.2])
        (True, False)
    """
    n = len(values)
    score = sum((after > before) - (after < before) for before, after in combinations(values, 2))
    return score < 0 and (score + 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18) <= _TREND_QUANTILE


def overfit(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find an evaluation loss that rises over three evaluations, to 10 % above the best, while the training falls."""
    if logged.evaluation is None:
        return
    name = "audio_loss" if logged.evaluation.audio_targets else "loss"
    past = [(event.step, float(getattr(event, name))) for event in (*history.evaluations, logged.evaluation)]
    past = [(step, loss) for step, loss in past if math.isfinite(loss)]
    trained = [(event.step, float(getattr(event, name))) for event in history.steps]
    trained = [(step, loss) for step, loss in trained if math.isfinite(loss)]
    last = past[-_OVERFIT_EVALUATIONS:]
    if len(last) < _OVERFIT_EVALUATIONS or not trained or past[-1][0] != logged.evaluation.step:
        return
    best_step, best = min(past, key=lambda point: point[1])
    rises = all(before < after for (_, before), (_, after) in pairwise(last))
    then = next((loss for step, loss in reversed(trained) if step <= best_step), trained[0][1])
    now = trained[-1][1]
    if best > 0 and rises and last[-1][1] >= _OVERFIT_FACTOR * best and now < then:
        yield make_finding(
            "overfit",
            "warning",
            f"{name} of the evaluation rose to {last[-1][1]:.3g}, {last[-1][1] / best - 1:.0%} above its best "
            f"({best:.3g} at step {best_step}), while {name} of the training fell from {then:.3g} to {now:.3g}.",
            "Usually the model memorizes the clips.",
            f"Use the checkpoint near step {best_step}, more data, or fewer steps.",
            evidence={"best": best, "best_step": best_step, "now": last[-1][1], "train_then": then, "train_now": now},
        )


CHECKS: tuple[Check, ...] = (non_finite, exploding, plateau, overfit)
