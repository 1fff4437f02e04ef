from dataclasses import replace

import pytest

from higgs_audio_trainer.diagnoses.masking import CHECKS
from tests.diagnoses.builders import counts, history, logged_step, sample, step


def found(one, **run):
    return [finding for check in CHECKS for finding in check(one, history(**run))]


def keys(one, **run):
    return [(finding.code, finding.severity, finding.modality, finding.codebook) for finding in found(one, **run)]


def test_a_healthy_step_raises_nothing():
    """Nothing is found where every slot is in its place and each loss is divided by its own targets."""
    assert found(logged_step()) == []


def test_an_evaluation_raises_nothing():
    """Counts of an evaluation are not looked at: its samples may well be without a target."""
    assert found(replace(logged_step(samples=(sample(num_targets=0),)), train=None)) == []


def test_text_without_a_target_is_a_warning():
    """A run whose text is all masked trains the voice all the same: a warning."""
    assert keys(logged_step(step(text_targets=0), counted=())) == [("masked_out", "warning", "text", None)]


def test_audio_without_a_target_is_an_error():
    """A run whose audio is all masked does not train the voice: an error."""
    assert keys(logged_step(step(audio_targets=0), counted=())) == [("masked_out", "error", "audio", None)]


def test_a_step_may_lack_what_others_had():
    """Samples may differ in what they teach: a modality that had targets before is not masked out."""
    without = logged_step(step(40, text_targets=0, audio_targets=0), counted=())
    assert [finding for check in CHECKS for finding in check(without, history(logged_step(step(20))))] == []


def test_a_codebook_without_a_target_is_an_error_where_another_has_some():
    """A codebook that alone is masked is named."""
    assert keys(logged_step(counted=(counts(0), counts(1, num_targets=0, divisor=None)))) == [
        ("masked_out", "error", "audio", 1)
    ]
    assert (
        keys(logged_step(counted=(counts(0, num_targets=0, divisor=None), counts(1, num_targets=0, divisor=None))))
        == []
    )


def test_a_sample_without_a_target_is_named():
    """A sample that has a target in no shown series is named; one with some in its audio is not."""
    shown = [sample(sample_id="a", num_targets=0), sample(0, sample_id="a")]
    shown += [sample(sample_id="b", num_targets=0), sample(0, sample_id="b", num_targets=0)]
    (finding,) = found(logged_step(samples=tuple(shown)))
    assert (finding.code, finding.severity, finding.evidence) == ("masked_out", "warning", {"samples": ["b"]})


@pytest.mark.parametrize(("masked", "number"), [(3, 0), (4, 1), (300, 1)])
def test_masked_answers_are_a_warning_from_one_percent_on(masked, number):
    """Slots of the answer that are masked are counted from 1 % of those that are to be learned."""
    given = counts(masked={"response": masked}, supervised={"response": 396})
    assert len(found(logged_step(counted=(given,)))) == number


def test_a_masked_stop_is_not_the_matter_of_this_check():
    """A masked stop token alone is left to `no_stop_target`."""
    assert found(logged_step(counted=(counts(0, masked={"stop": 4}, supervised={"codes": 400}),))) == []


@pytest.mark.parametrize("place", ["prompt", "placeholder", "padding", "anything else"])
def test_targets_outside_of_the_answer_are_an_error(place):
    """A target in any place but the answer is found and named with its number."""
    (finding,) = found(logged_step(counted=(counts(supervised={"response": 280, place: 120}),)))
    assert (finding.code, finding.severity, finding.modality) == ("prompt_supervised", "error", "text")
    assert f"120 of 400 training targets are in slots that must be masked: {place} 120" in finding.message


def test_supervised_reference_audio_is_said_once_for_all_codebooks():
    """What holds for all codebooks is one finding."""
    wrong = {"codes": 200, "stop": 4, "reference_audio": 196}
    (finding,) = found(logged_step(counted=(counts(0, supervised=wrong), counts(1, supervised=wrong))))
    assert (finding.code, finding.codebook, finding.modality) == ("prompt_supervised", None, "audio")
    assert "reference audio 196" in finding.message


def test_a_loss_divided_by_the_text_targets_is_named():
    """The number that the loss was divided by is traced to whose it is."""
    (finding,) = found(logged_step(step(text_targets=24), counted=(counts(0, divisor=24.0),)))
    assert (finding.code, finding.severity, finding.codebook) == ("wrong_denominator", "error", 0)
    assert (
        "codebook 0: the loss was divided by 24 (the number of text targets) instead of its 400 targets"
        in finding.message
    )


@pytest.mark.parametrize("divisor", [None, float("nan"), float("inf"), 400.0, 403.9, 396.1])
def test_a_right_or_unknown_divisor_is_silent(divisor):
    """Within 1 % the divisor is the number of targets: it is computed back from a float32 loss."""
    assert found(logged_step(counted=(counts(divisor=divisor),))) == []


def test_a_divisor_of_nobody_is_still_an_error():
    """A wrong divisor that is no known number is said without an owner."""
    (finding,) = found(logged_step(counted=(counts(divisor=131.0),)))
    assert finding.evidence["number_of"] is None
    assert "was divided by 131 instead of its 400 targets" in finding.message


def test_codebooks_that_are_not_delayed_are_an_error():
    """Every codebook but the first begins with a delay prefix in each clip."""
    series = [counts(k, num_codebooks=4) for k in range(4)]
    assert found(logged_step(counted=tuple(series)), num_codebooks=4) == []
    flat = tuple(replace(one, masked={"stream_bos": 4}) for one in series)
    (finding,) = found(logged_step(counted=flat), num_codebooks=4)
    assert (finding.code, finding.severity) == ("delay_missing", "error")
    assert finding.evidence == {"codebooks": [1, 2, 3], "found": [0, 0, 0], "clips": 4}


def test_a_supervised_delay_prefix_is_a_delay():
    """A delay prefix that is a target is there, though it is to be masked."""
    wrong = counts(1, masked={"stream_bos": 4}, supervised={"codes": 392, "stop": 4, "delay_prefix": 4})
    assert [finding.code for finding in found(logged_step(counted=(counts(0), wrong)))] == ["prompt_supervised"]


def test_the_audit_at_step_1_notes_what_is_trained():
    """At step 1 a note for each modality counts the slots by reason, and the audio's holds the strips."""
    series = (counts(strip="3p#"), counts(0, strip="Bd2#E"), counts(1, strip="2B#E"))
    text, audio = found(logged_step(step(1), counted=series, samples=(sample(sample_id="a"),)))
    assert {text.severity, audio.severity} == {"note"}
    assert text.message == "400 of 956 text slots are supervised; masked: prompt 120, placeholder 420, padding 16"
    assert audio.message == (
        "800 of 816 slots of 2 codebooks are supervised; masked: stream BOS 8, delay prefix 4, EOS fill 4"
    )
    assert "strip" not in text.evidence
    assert audio.evidence["sample"] == "a"
    assert audio.evidence["strip"] == {"text": "3p#", "codebook 0": "Bd2#E", "codebook 1": "2B#E"}


def test_the_audit_of_a_text_run_holds_the_strip_itself():
    """Without audio the strip is in the text's note."""
    (text,) = found(logged_step(step(1), counted=(counts(strip="3p#"),), samples=()))
    assert text.evidence["strip"] == {"text": "3p#"}
