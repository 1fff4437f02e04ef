"""Checks of the learning rate and of the evaluations: a schedule of another length, and steps that change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

from higgs_audio_trainer.diagnoses.finding import Check, Finding, make_finding
from higgs_audio_trainer.diagnoses.history import AttemptFacts, History
from higgs_audio_trainer.events import EvalResult
from higgs_audio_trainer.logged_step import LoggedStep

_LONG_BEFORE = 0.9  # share of the run's steps
_EXHAUSTED = 1e-6  # share of the largest rate
_ZERO_STEPS, _ZERO_SPAN, _ZERO_SHARE = 3, 10, 0.05  # logged steps, steps, share of the steps; for a run of unknown end
_FEWEST = 3  # logged steps with a falling rate
_ROUNDING = 1e-6  # share of the rate: deviation from the form of a schedule
_TOLERANCE, _TOLERANCE_STEPS = 0.1, 2  # of the length of a schedule
_USUAL = 0.1  # share of the rate of the settings; a smaller rate may change no digit
_FEWEST_TARGETS = 50  # a few losses may be equal by rounding
_LOSSES = ("loss", "text_loss", "audio_loss")
_FIELDS = (
    *(*_LOSSES, "audio_loss_per_codebook", "text_accuracy", "audio_accuracy_per_codebook"),
    *("text_targets", "audio_targets", "num_samples"),
)
_STEPPED = "Usually the scheduler is stepped more than once a step, for example once for each process or micro-batch"


class _Rate(NamedTuple):
    """Learning rate of a logged step."""

    step: int
    rate: float


def rate_exhausted(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a learning rate that fell to 0 long before the end of the run.

    A rate of 0 from the beginning is a decision, and the first step of a warm-up has it. If the number of steps is
    unknown, the rate must stay at 0.
    """
    if logged.train is None or history.peak_rate == 0:
        return
    attempt, rates = _rates(logged, history)
    total = attempt.total_steps
    limit = 0.0 if total is None else _EXHAUSTED * history.peak_rate
    zeros = [*takewhile(lambda rate: rate.rate <= limit, reversed(rates))]
    if not zeros:
        return
    begin, now = zeros[-1].step, zeros[0].step
    if total is None:
        stays = len(zeros) >= _ZERO_STEPS and now - begin >= max(_ZERO_SPAN, _ZERO_SHARE * now)
    else:
        stays = now > begin and begin <= _LONG_BEFORE * total
    if stays:
        of = "" if total is None else f" of {total}"
        yield make_finding(
            "rate_exhausted",
            "warning",
            f"the learning rate is 0 since step {begin}{of}: the model learns nothing more.",
            f"{_STEPPED}, or was made for fewer steps.",
            "Make the schedule for the number of optimizer steps, and step it once after each.",
            evidence={"since_step": begin, "total_steps": total, "peak_rate": history.peak_rate},
        )


def schedule_mismatch(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a linear or cosine schedule that reaches 0 before the end of the run, or would only reach 0 after it.

    The length of the schedule follows from logged rates, so that it does not matter why the length is wrong. Rates of
    another form than the schedule's, for example because another scheduler changes the rate too, are no evidence.
    """
    if logged.train is None:
        return
    attempt, rates = _rates(logged, history)
    if attempt.total_steps is None or attempt.schedule is None:
        return
    end = _end_of(rates, attempt)
    total, slack = attempt.total_steps, _TOLERANCE * attempt.total_steps + _TOLERANCE_STEPS
    if end is None or abs(end - total) <= slack:
        return
    consequence, cause = (
        ("The model learns nothing after its end.", f"{_STEPPED}, or the number of steps was counted otherwise.")
        if end < total
        else (
            "The rate does not fall to 0, and the last steps are as rough as those before.",
            "Usually the schedule was made for more steps, such as those of all processes or of micro-batches.",
        )
    )
    yield make_finding(
        "schedule_mismatch",
        "warning",
        f"the {attempt.schedule} schedule of the learning rate ends at step {end:.0f}, the run at step {total}.",
        consequence,
        cause,
        "Make the schedule for the number of optimizer steps, and step it once after each.",
        evidence={"schedule_steps": round(end, 1), "total_steps": total, "schedule": attempt.schedule},
    )


def _end_of(rates: Sequence[_Rate], attempt: AttemptFacts) -> float | None:
    """Return the step after which the rate is 0. None for too few rates, or of another form than the schedule's."""
    turn = _turn_of(rates)
    if turn is not None and attempt.schedule == "cosine":
        return turn
    falling = _falling(rates)
    ends = (_zero_of(part, attempt) for part in (falling, falling[1:]))  # the first may be of the warm-up
    return next((end for end in ends if end is not None), None)


def _zero_of(rates: Sequence[_Rate], attempt: AttemptFacts) -> float | None:
    """Return the step after which a falling rate is 0. None for too few rates, or of another form."""
    if len(rates) < _FEWEST:
        return None
    if attempt.schedule == "linear":
        parts = [rate.rate / rates[0].rate for rate in rates]
    elif attempt.rate is not None and all(rate.rate <= attempt.rate for rate in rates):
        parts = [1 - math.acos(2 * rate.rate / attempt.rate - 1) / math.pi for rate in rates]
    else:
        return None
    steps = [rate.step - 1 for rate in rates]  # the rate of step 1 is that of a schedule with no step done
    slope = (parts[-1] - parts[0]) / (steps[-1] - steps[0])
    lines = (parts[0] + slope * (step - steps[0]) for step in steps)
    if slope >= 0 or any(abs(part - line) > _ROUNDING for part, line in zip(parts, lines, strict=True)):
        return None
    return steps[0] - parts[0] / slope


def _rates(logged: LoggedStep, history: History) -> tuple[AttemptFacts, list[_Rate]]:
    """Return the attempt of a logged step, and the rates of its logged steps until now."""
    attempt = history.attempt_at(logged.step)
    steps = (*history.steps, *(() if logged.train is None else (logged.train,)))
    known = (_Rate(step.step, step.learning_rate) for step in steps if step.step > attempt.start)
    return attempt, [rate for rate in known if math.isfinite(rate.rate)]


def _falling(rates: Sequence[_Rate]) -> Sequence[_Rate]:
    """Return the last rates, each above 0 and below the rate of the logged step before, and the rate that fell."""
    pairs = [*takewhile(lambda pair: 0 < pair[1].rate < pair[0].rate, reversed([*pairwise(rates)]))][::-1]
    return [before for before, _ in pairs[:1]] + [rate for _, rate in pairs]


def _turn_of(rates: Sequence[_Rate]) -> float | None:
    """Return the step of the first rise after a fall of the rate, the end of a cosine. None without a rise."""
    has_fallen = False
    for before, now in pairwise(rates):
        if has_fallen and now.rate > before.rate:
            return before.step
        has_fallen |= now.rate < before.rate
    return None


def flat_evaluation(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find two evaluations that are equal to the last digit, with training steps between.

    Rates far below the rate of the settings, as in the first steps of a warm-up, may change no digit. A rate of 0 that
    is no beginning of a warm-up is reported, because the evaluations then cost time for nothing.
    """
    now, before = logged.evaluation, next(reversed(history.evaluations), None)
    if now is None or before is None or now.step <= before.step + 1 or not _is_telling(now):
        return
    if any(getattr(now, name) != getattr(before, name) for name in _FIELDS):
        return
    rate = _rate_between(before.step, now.step, history)
    usual = history.attempt_at(now.step).rate or history.peak_rate
    if rate is None or 0 < rate < _USUAL * usual:
        return
    cause, advice = (
        ("The learning rate is 0.", "Check --lr and the schedule.")
        if rate == 0
        else (
            "Usually another model is evaluated, the optimizer has other parameters, or bfloat16 loses the steps.",
            "Check that the weights change, and train in float32 or with mixed precision.",
        )
    )
    yield make_finding(
        "flat_evaluation",
        "warning",
        f"the evaluations at steps {before.step} and {now.step} are equal to the last digit (loss {now.loss:.6g}): the "
        "training changes nothing in the evaluated model.",
        cause,
        advice,
        evidence={"before": before.step, "loss": now.loss, "learning_rate": rate},
    )


def _rate_between(before: int, now: int, history: History) -> float | None:
    """Return the largest logged rate of steps up to `now`, or else the last rate before. None without a telling rate.

    A last rate of 0 may be the first of a warm-up.
    """
    rates = [step for step in history.steps if step.step <= now and math.isfinite(step.learning_rate)]
    between = [step.learning_rate for step in rates if step.step > before]
    return max(between) if between else next((step.learning_rate for step in rates[-1:]), None) or None


def _is_telling(result: EvalResult) -> bool:
    """Return True for losses of enough targets that are neither 0 nor NaN."""
    losses = [float(getattr(result, name)) for name in _LOSSES]
    return (
        all(map(math.isfinite, losses))
        and any(losses)
        and result.text_targets + result.audio_targets >= _FEWEST_TARGETS
    )


CHECKS: tuple[Check, ...] = (rate_exhausted, schedule_mismatch, flat_evaluation)
