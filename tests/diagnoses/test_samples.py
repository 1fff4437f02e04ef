from dataclasses import replace

import pytest

from higgs_audio_trainer.diagnoses.samples import CHECKS
from tests.builders import eval_result
from tests.diagnoses.builders import counts, history, logged_step, sample, step


def found(one, *before, **run):
    return [finding for check in CHECKS for finding in check(one, history(*before, **run))]


def test_a_healthy_step_raises_nothing():
    """Samples of different content and usual length raise nothing, also when repeated."""
    one = logged_step(
        step(samples={"a": "1", "b": "2"}, sequence_length=100), samples=(sample(sample_id="a", fingerprint="1"),)
    )
    assert found(one, one, one, max_length=1000) == []


def test_two_samples_of_one_step_with_one_fingerprint_are_a_pair():
    """Equal samples with different ids in a step are a pair."""
    (finding,) = found(logged_step(step(samples={"a": "1", "b": "1", "c": "2"}), samples=()))
    assert (finding.code, finding.severity, finding.evidence["pairs"]) == ("duplicate_samples", "warning", [["a", "b"]])


def test_a_sample_with_the_fingerprint_of_an_earlier_one_is_a_pair():
    """Equal samples with different ids in different steps are a pair."""
    before = logged_step(step(10, samples={"a": "1"}), samples=())
    (finding,) = found(logged_step(step(20, samples={"b": "1"}), samples=()), before)
    assert finding.evidence["pairs"] == [["a", "b"]]


def test_an_evaluation_on_a_training_sample_is_a_pair():
    """An evaluation sample with the content of a training sample is a pair."""
    before = logged_step(step(10, samples={"a": "1"}), samples=())
    shown = (sample(sample_id="held-out", fingerprint="1"),)
    (finding,) = found(logged_step(evaluation=eval_result(), samples=shown), before)
    assert finding.evidence["pairs"] == [["a", "held-out"]]


def test_at_most_eight_pairs_are_listed():
    """The evidence lists eight pairs and the number of all pairs."""
    (finding,) = found(logged_step(step(samples={f"s{n}": "1" for n in range(20)}), samples=()))
    assert (len(finding.evidence["pairs"]), finding.evidence["found"]) == (8, 19)


@pytest.mark.parametrize(("length", "severity"), [(899, None), (900, "note"), (1000, "note"), (1001, "error")])
def test_a_sequence_is_too_long_beyond_the_positions_of_the_model(length, severity):
    """A sequence that just fits is a note, and a longer sequence is an error."""
    severities = [finding.severity for finding in found(logged_step(step(sequence_length=length)), max_length=1000)]
    assert severities == ([severity] if severity else [])


def test_an_unknown_length_is_silent():
    """A log without one of the two lengths raises nothing."""
    assert found(logged_step(step(sequence_length=5000))) == []
    assert found(logged_step(), max_length=10) == []


def test_a_step_that_is_mostly_padding_is_noted():
    """More than three quarters of padding is a note."""
    assert found(logged_step(counted=(counts(masked={"padding": 1200}),))) == []
    (finding,) = found(logged_step(counted=(counts(masked={"padding": 1210}),)))
    assert "--train_sampling_strategy group_by_length" in finding.message
    assert (finding.code, finding.severity, finding.modality) == ("sample_too_long", "note", "text")


def test_a_constant_clip_is_named_once_with_its_codebooks():
    """A silent clip in several codebooks is reported once."""
    series = (counts(0, constant_samples=("a",)), counts(1, constant_samples=("a", "b")))
    (finding,) = found(logged_step(counted=series))
    assert (finding.code, finding.severity, finding.codebook) == ("constant_sample", "warning", None)
    assert finding.evidence == {"samples": ["a", "b"], "codebooks": [0, 1]}
    assert found(replace(logged_step(counted=series), train=None)) == []


def test_one_codebook_may_stand_still():
    """A constant residual codebook is no silent clip while most other codebooks change."""
    series = (counts(0, num_codebooks=3), counts(1, num_codebooks=3), counts(2, constant_samples=("a",)))
    assert found(logged_step(counted=series)) == []
