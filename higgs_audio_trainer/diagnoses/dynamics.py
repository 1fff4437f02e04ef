"""How losses and gradients move: not finite, exploding, standing still, or rising on what is not trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from statistics import fmean, linear_regression, median

from higgs_audio_trainer.diagnoses.finding import Check, Finding
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

_MOST_NAMES = 3  # in a message; the evidence has all
_LOSS_FACTOR, _LOSS_NATS = 1.5, 1.0  # above the first loss
_GRAD_FACTOR, _GRAD_EARLIER = 10.0, 4  # times the median of so many earlier norms
_GRAD_FACTOR_AT_ONCE = 100.0  # times the median of at least one
_ABOVE_ALL = 2.0  # times the largest one: norms fall, and one may be as large again as they were at first
_SMALL_GRAD_NORM = 1.0  # smaller ones are not even clipped
_LEARNED_BY_HEART = 0.1  # nats: a loss below has nothing left to lose
_LARGEST_LOSS = 1e6  # nats: beyond, sums of squares may overflow, and the loss has exploded anyway
_STANDS_DUE_STEPS, _STANDS_STEPS = 5, 30
_FALL_FROM_FIRST = 0.01  # of the first loss: who fell that far has moved
_FALL_SINCE_WARM_UP = 0.005  # of the first loss: so much must be ruled out
_FEW_QUANTILE, _MANY_QUANTILE = (
    10.2,
    5.0,
)  # of Student's t, one-sided 0.1 %: of 5 points, and of 10 or more
_TREND_STEPS = 10
_TREND_QUANTILE = -1.645  # of the standard normal distribution: 5 %
_OVERFIT_EVALUATIONS, _OVERFIT_FACTOR = 3, 1.1


def non_finite(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find losses, or a gradient norm, that are NaN or infinite.

    In fp16 an infinite gradient norm alone is a note: the scaler skips that step and goes on with a smaller scale.
    """
    train = due.train
    if train is None:
        return
    figures = {"loss": train.loss, "text_loss": train.text_loss, "audio_loss": train.audio_loss}
    figures |= {f"loss of codebook {k}": loss for k, loss in enumerate(train.audio_loss_per_codebook)}
    names = [name for name, value in figures.items() if not math.isfinite(value)]
    of_gradient = train.grad_norm is not None and not math.isfinite(train.grad_norm)
    if names:
        cause = (
            "base checkpoint's weights are damaged, or overflow in this dtype. Check them, or try --dtype float32"
            if due.step <= 1
            else "learning rate is too high. Go back to the last checkpoint with a smaller --lr"
        )
        yield Finding(
            code="non_finite",
            severity="error",
            message=f"{_listed(names)}: not a finite number. The adapters are of no use from here on. Usually the "
            f"{cause}",
            evidence={"fields": [*names, *(["grad_norm"] if of_gradient else [])]},
        )
    elif of_gradient:
        skipped = history.run.mixed_precision == "fp16"
        advice = (
            "fp16 skips such a step. If it comes often, take --bf16 true"
            if skipped
            else "The adapters are of no use after this step. Usually the learning rate is too high. Take a smaller "
            "--lr"
        )
        yield Finding(
            code="non_finite",
            severity="note" if skipped else "error",
            message=f"grad_norm is not a finite number, though the losses are. {advice}",
            evidence={"fields": ["grad_norm"]},
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def exploding(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a loss far above the first one, and a gradient norm far above the earlier ones."""
    train, first = due.train, history.first
    if train is None or first is None:
        return
    least = max(_LOSS_FACTOR * first.loss, first.loss + _LOSS_NATS)
    if math.isfinite(train.loss) and math.isfinite(first.loss) and train.loss >= least:
        yield Finding(
            code="exploding",
            severity="error",
            message=f"the loss is {train.loss:.3g} and began at {first.loss:.3g}: the training destroys the model. "
            f"Usually the learning rate is too high ({train.learning_rate:.2g} at this step). Take a tenth of it: --lr",
            evidence={"loss": train.loss, "first_loss": first.loss, "learning_rate": train.learning_rate},
        )
    earlier = [norm for step in history.steps if (norm := step.grad_norm) is not None and math.isfinite(norm)]
    norm = train.grad_norm
    if norm is None or not math.isfinite(norm) or not earlier or norm <= _SMALL_GRAD_NORM:
        return
    usual = median(earlier)
    factor = _GRAD_FACTOR if len(earlier) >= _GRAD_EARLIER else _GRAD_FACTOR_AT_ONCE
    if norm >= factor * usual > 0 and norm >= _ABOVE_ALL * max(earlier):
        yield Finding(
            code="exploding",
            severity="warning",
            message=f"grad_norm is {norm:.3g}, {norm / usual:.0f} times its median of {usual:.3g} so far. Usually the "
            f"learning rate is too high ({train.learning_rate:.2g} at this step), or one sample is broken. Take a "
            "smaller --lr, or look at the samples of this step",
            evidence={"grad_norm": norm, "median": usual, "learning_rate": train.learning_rate},
        )


def plateau(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a loss that stands still: without a gradient, from the beginning on, or lately."""
    train = due.train
    if train is None or not _LEARNED_BY_HEART < train.loss < _LARGEST_LOSS:
        return
    steps = [step for step in (*history.steps, train) if abs(step.loss) < _LARGEST_LOSS]
    if train.grad_norm == 0.0:
        yield Finding(
            code="plateau",
            severity="error",
            message=f"grad_norm is 0 at a loss of {train.loss:.3g}: nothing is learned. Usually the adapters are "
            "frozen, or detached from the loss. Check that their parameters require a gradient",
            evidence={"grad_norm": 0.0, "loss": train.loss},
        )
    elif _never_fell(steps, history):
        assert history.first is not None
        yield Finding(
            code="plateau",
            severity="warning",
            message=f"the loss began at {history.first.loss:.4g} and is {train.loss:.4g} after "
            f"{train.step - history.first.step} steps: it has not fallen. Usually the learning rate is too small "
            f"({train.learning_rate:.2g} at this step), or the adapters are not trained. Take a larger --lr, and look "
            "at grad_norm",
            evidence={"loss": train.loss, "first_loss": history.first.loss, "learning_rate": train.learning_rate},
        )
    elif len(steps) >= _TREND_STEPS and not _falls([step.loss for step in steps[-_TREND_STEPS:]]):
        begin = steps[-_TREND_STEPS]
        yield Finding(
            code="plateau",
            severity="note",
            message=f"the loss shows no fall from step {begin.step} ({begin.loss:.4g}) to step {train.step} "
            f"({train.loss:.4g}). The training may have learned what it can. Listen to a checkpoint",
            evidence={"loss": train.loss, "since_step": begin.step, "loss_then": begin.loss},
        )


def _never_fell(steps: Sequence[TrainStep], history: History) -> bool:
    """Tell whether the loss is where it began, and certainly does not fall since the end of the warm-up.

    That a fall is not to be seen proves nothing in a noisy record. So the upper confidence limit of the fall, that of
    the slope of a least-squares line times the steps (Draper and Smith, "Applied Regression Analysis", 1.4), must be
    below 0.5 % of the first loss.
    """
    first, now = history.first, steps[-1]
    after_warm_up = steps[max(range(len(steps)), key=lambda index: steps[index].learning_rate) :]
    span = now.step - after_warm_up[0].step
    if first is None or len(after_warm_up) < _STANDS_DUE_STEPS or span < _STANDS_STEPS:
        return False
    began, lately = first.loss, fmean(step.loss for step in steps[-3:])
    if not _LEARNED_BY_HEART < began < _LARGEST_LOSS or lately < (1 - _FALL_FROM_FIRST) * began:
        return False
    return _greatest_fall(after_warm_up) < _FALL_SINCE_WARM_UP * began


def _greatest_fall(steps: Sequence[TrainStep]) -> float:
    """Return the upper confidence limit of how far the loss fell over these steps; nats."""
    times, losses = [float(step.step) for step in steps], [step.loss for step in steps]
    slope, intercept = linear_regression(times, losses)
    errors = [loss - intercept - slope * time for time, loss in zip(times, losses, strict=True)]
    variance = math.fsum(error**2 for error in errors) / (len(steps) - 2)
    deviation = math.sqrt(variance / math.fsum((time - fmean(times)) ** 2 for time in times))
    quantile = _FEW_QUANTILE if len(steps) < _TREND_STEPS else _MANY_QUANTILE
    return (quantile * deviation - slope) * (times[-1] - times[0])


def _falls(values: Sequence[float]) -> bool:
    """Tell whether values fall, by the one-sided Mann-Kendall test at 5 %.

    S is the number of pairs that rise less the number that fall; without a trend it is nearly normal, with mean 0 and
    variance n (n - 1) (2 n + 5) / 18 (Mann 1945, "Nonparametric tests against trend"). One is taken off for continuity.
    """
    n = len(values)
    score = sum((after > before) - (after < before) for before, after in combinations(values, 2))
    return score < 0 and (score + 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18) <= _TREND_QUANTILE


def overfit(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find an evaluation loss that rises three times, to 10 % above the best, while the training loss fell."""
    if due.evaluation is None:
        return
    name = "audio_loss" if due.evaluation.audio_targets else "loss"
    past = [(one.step, float(getattr(one, name))) for one in (*history.evaluations, due.evaluation)]
    past = [(step, loss) for step, loss in past if math.isfinite(loss)]
    trained = [(one.step, float(getattr(one, name))) for one in history.steps]
    trained = [(step, loss) for step, loss in trained if math.isfinite(loss)]
    last = past[-_OVERFIT_EVALUATIONS:]
    if len(last) < _OVERFIT_EVALUATIONS or not trained or past[-1][0] != due.evaluation.step:
        return
    best_step, best = min(past, key=lambda one: one[1])
    rises = all(before < after for (_, before), (_, after) in pairwise(last))
    then = next((loss for step, loss in reversed(trained) if step <= best_step), trained[0][1])
    now = trained[-1][1]
    if best > 0 and rises and last[-1][1] >= _OVERFIT_FACTOR * best and now < then:
        yield Finding(
            code="overfit",
            severity="warning",
            message=f"{name} of the evaluation rose to {last[-1][1]:.3g}, {last[-1][1] / best - 1:.0%} above its best "
            f"({best:.3g} at step {best_step}), while that of the training fell from {then:.3g} to {now:.3g}: the "
            f"clips are learned by heart. Take the checkpoint near step {best_step}, more data, or fewer steps",
            evidence={"best": best, "best_step": best_step, "now": last[-1][1], "train_then": then, "train_now": now},
        )


CHECKS: tuple[Check, ...] = (non_finite, exploding, plateau, overfit)
