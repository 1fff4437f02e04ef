import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.diagnoses import codebooks, dynamics, masking, samples, voice
from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser, ReportedFinding
from higgs_audio_trainer.diagnoses.history import History, Run
from higgs_audio_trainer.events import EvalResult, GenerationSample, PredictionSample, TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep
from tests.builders import eval_result, random_events, run_start
from tests.diagnoses.builders import counts, logged_step, sample, spoken, step

#: State after five logged steps, saved by the version with `said` as the name of the reported findings.
EARLIER = Path(__file__).parent.parent / "fixtures" / "diagnoses.msgpack"
OURS = (*masking.CHECKS, *codebooks.CHECKS, *dynamics.CHECKS, *samples.CHECKS, *voice.CHECKS)


def infinite(number):
    """Return a logged step with an infinite gradient norm and no counts."""
    return logged_step(step(number, grad_norm=math.inf), counted=(), samples=())


def broken(number):
    """Return a logged step with a NaN loss and no counts."""
    return logged_step(step(number, loss=math.nan), counted=(), samples=())


def started(**changes):
    """Return a diagnoser after the start of a run."""
    diagnoser = Diagnoser()
    diagnoser.start(run_start(num_codebooks=2, **changes))
    return diagnoser


def test_a_finding_is_said_once_and_counted():
    """A finding of every logged step is a single event, and `counted` and `reported` hold the number of findings."""
    diagnoser = started()
    reported = [event.step for number in (1, 2, 3) for event in diagnoser.check(broken(number))]
    assert reported == [1]
    assert diagnoser.counted == {"non_finite": 3}
    known = diagnoser.reported["non_finite", None, None]
    assert (known.times, known.repeats, known.first_step, known.last_step) == (3, 2, 1, 3)


def test_a_finding_that_becomes_worse_is_said_again_with_its_repeats():
    """A note is reported and counted, an error of the same code is reported again, and milder findings are not."""
    diagnoser = started(config={"mixed_precision": "fp16"})
    order = [infinite(1), infinite(2), infinite(3), broken(4), infinite(5), broken(6)]
    events = [event for one in order for event in diagnoser.check(one)]
    assert [(event.step, event.severity, event.repeats) for event in events] == [(1, "note", 0), (4, "error", 2)]
    assert diagnoser.counted == {"non_finite": 2}


def test_modalities_and_codebooks_are_said_apart():
    """A code of text, of a codebook and of another codebook gives three reports."""
    wrong = {"divisor": 131.0}
    diagnoser = started(num_train_samples=4)
    first = (counts(None, **wrong), counts(0, **wrong), counts(1))
    second = (counts(None, **wrong), counts(0), counts(1, **wrong))
    reported = [
        (event.modality, event.codebook)
        for one in (logged_step(counted=first, samples=()), logged_step(step(30), counted=second, samples=()))
        for event in diagnoser.check(one)
        if event.code == "wrong_denominator"
    ]
    assert reported == [("text", None), ("audio", 0), ("audio", 1)]


def test_the_worst_of_one_code_at_one_step_is_said():
    """A loss and a gradient that explode at once are a single finding, the error."""
    diagnoser = started()
    for number in range(1, 6):
        diagnoser.check(logged_step(step(number), counted=(), samples=()))
    (event,) = diagnoser.check(logged_step(step(6, loss=90.0, grad_norm=500.0), counted=(), samples=()))
    assert (event.code, event.severity) == ("exploding", "error")


@pytest.mark.parametrize("cut", range(7))
def test_a_run_that_was_interrupted_says_what_one_that_was_not_says(cut):
    """Saving and restoring at any logged step changes no event and no count, NaN losses included."""
    logged = [
        logged_step(step(1)),
        infinite(2),
        logged_step(step(3), counted=(counts(0, divisor=7.0),), samples=(sample(sample_id="twin"),)),
        broken(4),
        logged_step(evaluation=eval_result(step=4, audio_loss=math.nan)),
        logged_step(step(5, loss=90.0, samples={"a": "1", "b": "1"})),
    ]
    whole, first, second = (started(config={"mixed_precision": "fp16"}) for _ in range(3))
    expected = [whole.check(one) for one in logged]
    events = [first.check(one) for one in logged[:cut]]
    second.restore(first.save())
    events += [second.check(one) for one in logged[cut:]]
    assert events == expected
    assert sum(map(len, expected)) >= 4
    assert (second.counted, second.reported) == (whole.counted, whole.reported)


def test_a_state_saved_before_the_fields_had_their_names_restores():
    """A checkpoint of an earlier version restores, and saving the state again keeps all of it."""
    saved = EARLIER.read_bytes()
    diagnoser = Diagnoser()
    diagnoser.restore(saved)
    assert diagnoser.counted == {"duplicate_samples": 2, "wrong_denominator": 1, "non_finite": 1}
    assert diagnoser.reported["non_finite", None, None] == ReportedFinding("error", 0, 2, 2, 4)
    assert [event.code for event in diagnoser.check(broken(5))] == [], "the finding was reported at step 4"
    assert diagnoser.reported["non_finite", None, None].times == 3
    unchanged = Diagnoser()
    unchanged.restore(saved)
    again = Diagnoser()
    again.restore(unchanged.save())  # with the fields that events gained since
    assert (again.counted, again.reported) == (unchanged.counted, unchanged.reported)
    assert again.save() == unchanged.save()


def test_what_is_not_saved_state_is_refused():
    """A damaged state raises `DecodeError`."""
    with pytest.raises(msgspec.DecodeError):
        started().restore(b"\xc1 not a state")


def test_memory_does_not_grow_with_the_run():
    """A history of 10,000 logged steps with new samples is no larger than after 5,000 steps."""
    history, sizes = History(run=Run(num_codebooks=2)), []
    figures, shown = step(), sample()
    for number in range(10_000):
        new = replace(figures, step=number + 1, samples={f"{number:06}": f"{number:06}"})
        history.add(LoggedStep(number + 1, new, samples=(replace(shown, fingerprint=f"x{number:06}"),)))
        history.add(LoggedStep(number + 1, evaluation=eval_result(step=number + 1)))
        if number % 100 == 99:
            history.add(spoken(number + 1, probes=70))
        if number in {4_999, 9_999}:
            sizes.append(len(msgspec.msgpack.encode(history)))
    assert sizes[1] <= sizes[0] * 1.01
    assert (len(history.steps), len(history.evaluations), len(history.fingerprints)) == (64, 64, 4096)
    assert [(probes[0].step, len(probes)) for probes in history.generations[:2]] == [(100, 64), (9_300, 64)]
    assert len(history.generations) == 9


def test_a_generation_of_the_probes_concerns_the_checks_of_the_voice_alone():
    """Between steps with findings, a generation gives none of their findings and changes nothing else of the state."""
    bad = {"loss": math.nan, "grad_norm": 0.0}
    diagnoser = started(base_is_random=True)
    for number in range(1, 31):
        diagnoser.check(logged_step(step(number, **(bad if number % 2 else {}))))
    before = msgspec.to_builtins(msgspec.msgpack.decode(diagnoser.save()))
    assert diagnoser.check(spoken(30, stopped=False, frames=145)) == []
    after = msgspec.to_builtins(msgspec.msgpack.decode(diagnoser.save()))
    assert len(after["history"].pop("generations")) == 1
    assert before["history"].pop("generations") == []
    assert repr(after) == repr(before)  # NaN differs from itself


def logged_steps_of(events):
    """Return random events as logged steps, each with the counts and samples before its figures."""
    made, counted, shown = [], [], []
    for event in events:
        if isinstance(event, TokenCounts):
            counted.append(event)
        elif isinstance(event, PredictionSample):
            shown.append(event)
        elif isinstance(event, TrainStep):
            made.append(LoggedStep(event.step, event, tuple(counted), tuple(shown)))
            counted, shown = [], []
        elif isinstance(event, EvalResult):
            made.append(LoggedStep(event.step, samples=tuple(shown), evaluation=event))
            shown = []
        elif isinstance(event, GenerationSample):
            made.append(LoggedStep(event.step, generations=(event,)))
    return made


OF_A_STEP = (TokenCounts, PredictionSample, TrainStep, EvalResult, GenerationSample)
RANDOM = random_events().filter(lambda event: isinstance(event, OF_A_STEP))


@settings(max_examples=150, deadline=None)
@given(st.lists(RANDOM, max_size=12), st.integers(0, 3), st.sampled_from([None, "fp16"]))
def test_no_check_raises_and_each_answers_alike_when_asked_again(events, num_codebooks, precision):
    """For any events, checks give one-line messages, answer alike twice, and change nothing."""
    history = History(run=Run(num_codebooks=num_codebooks or None, max_length=100, mixed_precision=precision))
    for one in logged_steps_of(events):
        before = msgspec.msgpack.encode(history)
        found = [list(check(one, history)) for check in OURS]
        assert repr(found) == repr([list(check(one, history)) for check in OURS])
        assert msgspec.msgpack.encode(history) == before
        assert all("\n" not in finding.message for answers in found for finding in answers)
        history.add(one)
