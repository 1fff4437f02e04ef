"""Checks of the learning rate and of equal evaluations."""

from dataclasses import replace

import pytest
from torch import nn, optim
from transformers import get_scheduler

from higgs_audio_trainer.diagnoses.history import AttemptFacts, History, Run
from higgs_audio_trainer.diagnoses.schedule import CHECKS, flat_evaluation, rate_exhausted
from higgs_audio_trainer.recording.schedule import schedule_name
from tests.builders import eval_result
from tests.diagnoses.builders import logged_step, step

PEAK = 1e-4
HEALTHY = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {"num_cycles": 2}),
    ("polynomial", {"power": 1.0, "lr_end": 1e-5}),
    ("polynomial", {"power": 2.0}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 2}),
]


def findings(name, total, *, warm_up=3, log_steps=5, length=None, steps_a_step=1, known=True, rate=PEAK, **kwargs):
    """Return the first step of each finding in a run with a real scheduler."""
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=rate)
    made = get_scheduler(name, optimizer, warm_up, length or total, scheduler_specific_kwargs=kwargs or None)
    history, found = History(run=Run(num_codebooks=2)), {}
    history.begin(AttemptFacts(0, total if known else None, schedule_name(made), rate))
    for number in range(1, total + 1):
        if number == 1 or number % log_steps == 0:
            logged = logged_step(step(number, learning_rate=optimizer.param_groups[0]["lr"]))
            for check in CHECKS:
                for finding in check(logged, history):
                    assert finding.severity == "warning"
                    found.setdefault(finding.code, number)
            history.add(logged)
        optimizer.step()
        for _ in range(steps_a_step):
            made.step()
    return found


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("name", "kwargs"), HEALTHY)
def test_a_schedule_of_the_run_is_healthy(name, kwargs, known):
    """Schedules of all kinds, lengths, warm-ups and log steps raise no alarm."""
    for total in (10, 60, 300):
        for warm_up in (0, 5, total // 3):
            for log_steps in (1, 5, 10):
                made = {"warm_up": warm_up, "log_steps": log_steps, "known": known}
                assert findings(name, total, **made, **kwargs) == {}, made


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_schedule_of_another_length_is_found(name):
    """A scheduler that two processes step, or that is made for twice the steps, is found before the middle."""
    assert findings(name, 60, steps_a_step=2)["schedule_mismatch"] <= 20
    assert findings(name, 60, length=120) == {"schedule_mismatch": 15}
    assert findings(name, 60, steps_a_step=2, known=False).keys() <= {"rate_exhausted"}


def test_a_cosine_that_rises_again_is_found():
    """A cosine goes up again after its end, so that no rate of 0 is logged."""
    assert findings("cosine", 60, steps_a_step=7) == {"schedule_mismatch": 15}


def test_a_rate_of_zero_is_found_long_before_the_end():
    """If the end is unknown, the rate must stay at 0 for some steps."""
    assert findings("linear", 60, length=15, log_steps=10) == {"rate_exhausted": 30}
    assert findings("linear", 60, length=15, log_steps=10, known=False) == {"rate_exhausted": 40}
    assert findings("linear", 60, length=58) == {}
    assert findings("constant", 60, rate=0.0) == {}, "a rate of 0 on purpose"


def test_only_the_attempt_in_progress_counts():
    """A resumed run with more steps has another schedule from there on."""
    history = History(run=Run(num_codebooks=2))
    for start, total in ((0, 20), (20, 40)):
        history.begin(AttemptFacts(start, total, "linear", PEAK))
    for number in range(1, 41):
        total = 20 if number <= 20 else 40
        logged = logged_step(step(number, learning_rate=PEAK * (total - number + 1) / total))
        assert [finding for check in CHECKS for finding in check(logged, history)] == []
        history.add(logged)


def evaluated(number, **changes):
    """Return an evaluation whose figures are always the same."""
    result = eval_result(step=number, text_targets=100, audio_targets=800)
    return logged_step(evaluation=replace(result, **changes))


def flat(rates, *, first=10, second=20, known_rate=PEAK, **changes):
    """Return the findings of a second evaluation after logged steps with rates."""
    history = History(run=Run(num_codebooks=2))
    history.begin(AttemptFacts(0, None, None, known_rate))
    logs = [logged_step(step(number, learning_rate=rate)) for number, rate in rates.items()]
    for logged in sorted([*logs, evaluated(first)], key=lambda logged: logged.step):
        history.add(logged)
    return [finding.message for finding in flat_evaluation(evaluated(second, **changes), history)]


def test_equal_evaluations_are_found():
    """Equality in every field is a finding, and the rate tells the cause."""
    (message,) = flat({10: PEAK, 20: PEAK})
    assert "at steps 10 and 20 are equal to the last digit" in message
    assert "Usually another model is evaluated" in message
    assert flat({5: PEAK}) == [message], "without a logged step between, the last rate counts"
    (message,) = flat({10: PEAK, 20: 0.0})
    assert "The learning rate is 0." in message
    assert len(flat({1: 0.0, 20: 0.0}, known_rate=0.0)) == 1, "a rate of 0 on purpose, with evaluations for nothing"


@pytest.mark.parametrize(
    "case",
    [
        {"rates": {20: PEAK}, "loss": 4.5000001},
        {"rates": {20: PEAK}, "num_samples": 5},
        {"rates": {20: PEAK}, "text_targets": 2, "audio_targets": 20},
        {"rates": {20: PEAK}, "loss": float("nan")},
        {"rates": {1: 0.0}},  # the first of a warm-up
        {"rates": {20: PEAK / 50}},  # too small to change a digit
        {"rates": {20: PEAK}, "first": 20},  # of one step
        {"rates": {1: PEAK}, "first": 0, "second": 1},
        {"rates": {}},
    ],
)
def test_other_evaluations_are_healthy(case):
    """A digit that differs, few targets, NaN, a tiny rate, or the same step are no finding."""
    assert flat(**case) == []


def test_a_step_without_figures_is_no_finding():
    """An evaluation has no rate, and the first steps no history."""
    assert list(rate_exhausted(evaluated(10), History())) == []
