"""Checks of generated speech."""

from dataclasses import replace

import pytest

from higgs_audio_trainer.diagnoses import voice
from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser
from higgs_audio_trainer.diagnoses.speech_faults import verdicts
from higgs_audio_trainer.events import RunStart
from higgs_audio_trainer.logged_step import LoggedStep
from tests.builders import eval_result, run_start
from tests.diagnoses.builders import generation, history, logged_step, spoken, step

FAULTS = {
    "never_stops": {"stopped": False, "frames": 145},
    "silent_voice": {"silence_share": 1.0, "peak": 0.0},
    "stuck": {"longest_run": 60, "repeat_share": 0.8},
    "too_short": {"frames": 8, "longest_run": 1, "repeat_share": 0.0},
}
CODES = sorted(FAULTS)
LEARNED = {"audio_accuracy_per_codebook": (0.99, 0.96)}


def found(checked, before):
    return [(finding.code, finding.severity) for check in voice.CHECKS for finding in check(checked, before)]


def the_finding(checked, before):
    [one] = [finding for check in voice.CHECKS for finding in check(checked, before)]
    return one


def has(code, **changes):
    return verdicts(generation(**(FAULTS[code] | changes))).get(code)


@pytest.mark.parametrize("base_is_random", [None, False, True])
def test_a_healthy_voice_raises_nothing(base_is_random):
    """Speech like the recordings raises nothing, with and without a recording."""
    before = history(logged_step(step(20, **LEARNED)), spoken(20), base_is_random=base_is_random)
    assert found(spoken(40), before) == []
    assert found(spoken(40, frames_label=None, agreement=None), before) == []
    assert found(spoken(40, silence_share=None, peak=None), before) == []


@pytest.mark.parametrize("code", CODES)
def test_a_fault_at_two_generations_is_found(code):
    """A pretrained model with a fault at two generations is warned about, with modality, numbers and names."""
    one = the_finding(spoken(40, **FAULTS[code]), history(spoken(20, **FAULTS[code])))
    assert (one.code, one.severity, one.modality, one.codebook) == (code, "warning", "audio", None)
    assert "8 of 8 probes, as at step 20 ('p-0', 'p-1', 'p-2, ...')" in one.message.replace("'p-2', ...", "'p-2, ...'")
    assert {"probes", "failing", "judged", "before"} < set(one.evidence)
    assert one.evidence["probes"] == [f"p-{index}" for index in range(8)]


@pytest.mark.parametrize("code", CODES)
def test_a_fault_at_a_single_generation_is_none(code):
    """A fault at the first generation, or after a good one, or at the same step again, is no finding."""
    bad = spoken(40, **FAULTS[code])
    assert found(bad, history()) == []
    assert found(bad, history(spoken(20))) == []
    assert found(bad, history(bad)) == []
    assert found(spoken(60), history(spoken(20, **FAULTS[code]), bad)) == []


@pytest.mark.parametrize("code", CODES)
def test_a_pretrained_model_has_some_steps_to_adapt(code):
    """The first generation counts from step 20 on: the base may have to learn the language."""
    assert found(spoken(40, **FAULTS[code]), history(spoken(19, **FAULTS[code]))) == []
    assert found(spoken(21, **FAULTS[code]), history(spoken(20, **FAULTS[code]))) == [(code, "warning")]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("accuracy", "severities"), [(0.96, []), (0.98, ["error"]), (None, [])])
def test_random_weights_must_have_learned(code, accuracy, severities):
    """Random weights babble, until they predict nearly all targets."""
    learned = step(20, audio_accuracy_per_codebook=(accuracy, accuracy))
    before = history(logged_step(learned), spoken(20, **FAULTS[code]), base_is_random=True)
    assert [severity for _, severity in found(spoken(40, **FAULTS[code]), before)] == severities


def test_random_weights_must_have_learned_what_the_evaluation_holds():
    """A random model that only memorized other samples, or that speaks texts without recordings, babbles."""
    bad = FAULTS["never_stops"]
    trained, spoke = logged_step(step(20, **LEARNED)), spoken(20, **bad)
    evaluation = logged_step(evaluation=eval_result(step=20))
    assert found(spoken(40, **bad), history(trained, spoke, base_is_random=True)) == [("never_stops", "error")]
    assert found(spoken(40, **bad), history(trained, evaluation, spoke, base_is_random=True)) == []
    new = {"frames": 1500, "frames_label": None, "agreement": None, "stopped": False}
    before = history(trained, spoken(20, **new), base_is_random=True)
    assert found(spoken(40, **new), before) == []


def test_only_what_was_known_when_the_probes_were_spoken_counts():
    """Speech that is decoded later is judged by the accuracy at its own step."""
    late = logged_step(step(50, **LEARNED))
    before = history(spoken(20, **FAULTS["stuck"]), late, base_is_random=True)
    assert found(spoken(40, **FAULTS["stuck"]), before) == []


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    ("probes", "failing", "severity"),
    [
        (1, 1, "warning"),
        (2, 1, None),
        (4, 4, "warning"),
        (5, 5, "error"),
        (8, 4, None),
        (8, 5, "warning"),
        (8, 6, "error"),
    ],
)
def test_difficult_sentences_are_no_fault_of_the_voice(code, probes, failing, severity):
    """More than half of the probes must fail; an error needs more than difficult sentences would explain."""
    before = history(spoken(20, probes=probes), spoken(40, probes=probes, failing=failing, **FAULTS[code]))
    one = found(spoken(60, probes=probes, failing=failing, **FAULTS[code]), before)
    assert one == ([] if severity is None else [(code, severity)])


def test_other_probes_failing_in_turn_are_no_fault_of_the_voice():
    """The same probes must fail at both generations."""
    first = spoken(20, failing=5, **FAULTS["stuck"])
    turned = LoggedStep(40, generations=tuple(reversed(spoken(40, failing=5, **FAULTS["stuck"]).generations)))
    renamed = tuple(replace(sample, probe=f"p-{index}") for index, sample in enumerate(turned.generations))
    assert found(LoggedStep(40, generations=renamed), history(first)) == []


@pytest.mark.parametrize("code", CODES)
def test_a_voice_that_spoke_well_before_is_an_error(code):
    """A pretrained voice that the training destroyed is an error, however early it spoke well."""
    good = [spoken(1), *(spoken(number, **FAULTS[code]) for number in range(20, 400, 20))]
    assert found(spoken(400, **FAULTS[code]), history(*good)) == [(code, "error")]
    assert found(spoken(400, **FAULTS[code]), history(*good[1:])) == [(code, "warning")]


def test_never_stops_is_judged_by_the_recording():
    """The limit must have ended the speech, a quarter or more after the recording's end."""
    assert has("never_stops", frames=100)
    assert has("never_stops", frames=99) is None  # a limit so low tells nothing
    assert has("never_stops", stopped=True) is False  # only just
    assert "stuck" in verdicts(generation(frames=99, stopped=False))


def test_never_stops_is_judged_by_the_text_without_a_recording():
    """Slow speech of the text must end before the limit. A text of 46 bytes takes at most 326 frames."""
    assert has("never_stops", frames_label=None, frames=326)
    assert has("never_stops", frames_label=None, frames=325) is None
    assert has("never_stops", frames_label=None, frames=9999, text="") is None


def test_too_short_is_judged_by_the_recording_and_the_text():
    """A quarter of the recording, and a third of a frame for each letter, are too short."""
    assert has("too_short", frames=19)
    assert has("too_short", frames=20) is False
    assert has("too_short", frames=11, frames_label=None)  # 35 letters
    assert has("too_short", frames=12, frames_label=None) is False
    assert has("too_short", frames=0, text="")
    assert has("too_short", frames_label=None, text="") is None
    assert has("too_short", stopped=False) is None


@pytest.mark.parametrize(
    ("text", "frames"),
    [("شكرا جزيلا لك على كل شيء.", 30), ("今天下午三点有一艘船开往对岸。", 50), ("नमस्ते, आप कैसे हैं?", 25), ("No.", 8)],
)
def test_fast_speech_is_not_too_short_and_slow_speech_stops(text, frames):
    """The bounds by the text hold for all scripts, at 12.5 and at 50 frames a second."""
    for size in (frames // 2, frames * 4):
        assert verdicts(generation(text=text, frames=size, frames_label=None))["too_short"] is False
    assert "never_stops" not in verdicts(generation(text=text, frames=frames * 3, frames_label=None, stopped=False))


def test_silence_is_far_more_than_recordings_have():
    """95 % of silence, or a peak below -50 dBFS. A speech of a few frames or without a waveform is not judged."""
    assert has("silent_voice", silence_share=0.95, peak=0.5)
    assert has("silent_voice", silence_share=0.94, peak=0.5) is False
    assert has("silent_voice", silence_share=0.0, peak=0.003)
    assert has("silent_voice", silence_share=0.0, peak=0.004) is False
    assert has("silent_voice", frames=4) is None
    assert has("silent_voice", silence_share=None, peak=None) is None


def test_stuck_is_far_more_than_recordings_have():
    """A run of a second and half of the frames, or two thirds of repeated frames."""
    rare = {"repeat_share": 0.5}
    assert has("stuck", longest_run=38, **rare)
    assert has("stuck", longest_run=37, **rare) is False
    assert has("stuck", frames=40, longest_run=24, **rare) is False
    assert has("stuck", longest_run=4, repeat_share=0.67)
    assert has("stuck", longest_run=4, repeat_share=0.66) is False
    assert has("stuck", frames=24) is None


def test_a_voice_repeats_what_its_recordings_repeat():
    """A speech as recorded is stuck only if one frame is 70 % of it, such as the silence of its clip."""
    right = {"agreement": (0.6, 0.4), "repeat_share": 0.8}
    assert has("stuck", longest_run=53, **right) is False
    assert has("stuck", longest_run=54, **right)
    beyond = {"frames": 145, "longest_run": 100, "agreement": (0.4, 0.2), "stopped": False}  # 54 % of the recording
    assert has("stuck", **beyond) is False
    padded = FAULTS["stuck"] | right
    assert "padded" in the_finding(spoken(40, **padded), history(spoken(20, **padded))).message
    assert "shifted" in the_finding(spoken(40, **FAULTS["stuck"]), history(spoken(20, **FAULTS["stuck"]))).message


def test_the_cause_of_silence_is_named():
    """With the codes of the recordings, the codec must be at fault."""
    right = FAULTS["silent_voice"] | {"agreement": (0.9, 0.8)}
    assert "decoder" in the_finding(spoken(40, **right), history(spoken(20, **right))).message
    wrong = FAULTS["silent_voice"]
    assert "not the one of the base model" in the_finding(spoken(40, **wrong), history(spoken(20, **wrong))).message


def test_cut_recordings_are_named():
    """Where recordings are too short for their texts too, the clips are at fault."""
    cut = FAULTS["too_short"] | {"frames_label": 8}
    one = the_finding(spoken(40, **cut), history(spoken(20, **cut)))
    assert "the clips are cut" in one.message
    assert (one.evidence["short_recordings"], one.evidence["frames_label"]) == (8, 8.0)
    whole = the_finding(spoken(40, **FAULTS["too_short"]), history(spoken(20, **FAULTS["too_short"])))
    assert "learned to stop early" in whole.message


def test_a_finding_is_reported_once_and_survives_a_resume():
    """A resumed run goes on with the generations before, and reports as an uninterrupted run does."""
    diagnoser = Diagnoser()
    diagnoser.start(run_start(base_is_random=False))
    bad = FAULTS["never_stops"]
    assert diagnoser.check(spoken(1)) == diagnoser.check(spoken(20, **bad)) == []
    resumed = Diagnoser()
    resumed.restore(diagnoser.save())
    resumed.start(run_start(base_is_random=False))
    [event] = resumed.check(spoken(40, **bad))
    assert [event] == diagnoser.check(spoken(40, **bad))
    assert (event.code, event.severity, event.step) == ("never_stops", "error", 40)
    assert resumed.check(spoken(60, **bad)) == []
    assert resumed.counted == {"never_stops": 2}
    assert isinstance(run_start(), RunStart)
