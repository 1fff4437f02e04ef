"""Fault zoo: a tiny training for each mistake that shows at step 1, and the matching diagnosis."""

import pytest

from higgs_audio_trainer.data import batch
from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.demo.run import CLIPS
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.families.training_forward import TrainingForward
from tests.zoo.faults import LEARNED, ONLY_HEARD, planted_in
from tests.zoo.runs import found, train, write_base


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (family, name)
        for family in FAMILIES
        for name in planted_in(family, FAULTS)
        if name not in {*LEARNED, *ONLY_HEARD}
    ],
)
def test_a_fault_is_found_at_step_1(plant, check_found, family, name):
    """The diagnosis comes at step 1 with the expected severity, and other diagnoses are only consequences."""
    assert check_found(name, plant(name, family)) == 1


def test_a_fault_that_a_family_cannot_have_says_why():
    """The reasons are sentences, and most faults are for every family."""
    reasons = [reason for fault in FAULTS.values() for reason in fault.not_for.values()]
    assert all(len(reason.split()) > 3 for reason in reasons)
    assert all(len(planted_in(family, FAULTS)) > 0.8 * len(FAULTS) for family in FAMILIES)


@pytest.mark.parametrize(("name", "offset"), [("same_index", -1), ("shifted_minus_1", -1), ("shifted_plus_1", 1)])
def test_shifted_labels_are_named_with_their_offset(plant, name, offset):
    """The evidence holds the offset of text and of every codebook."""
    shifted = [event for event in found(plant(name)) if event["code"] == "shifted_alignment"]
    assert [event["modality"] for event in shifted] == ["text", "audio"]
    assert [event["evidence"]["offset"] for event in shifted] == [offset, [offset] * 4]


def test_labels_at_the_same_index_are_shown_as_they_are(plant):
    """The log shows rows without shift, and labels equal to the input of the same row."""
    samples = plant("same_index").named("prediction_sample")
    assert {event["shift"] for event in samples} == {0}
    shown = [window for event in samples for window in (event["first"], event["last"])]
    assert all(window["inputs"] == window["labels"] for window in shown if -100 not in window["labels"])


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("prompt_supervised", {"modality": "text", "places": {"prompt"}}),
        ("reference_supervised", {"modality": "audio", "places": {"reference_audio"}}),
    ],
)
def test_the_places_that_are_to_be_masked_are_named(plant, name, evidence):
    """The prompt is a place of text, and reference speech a place of audio."""
    (event,) = [event for event in found(plant(name)) if event["code"] == "prompt_supervised"]
    places = event["evidence"]["places"]
    named = set().union(*places) if isinstance(places, list) else set(places)
    assert {"modality": event["modality"], "places": named} == evidence


def test_the_samples_at_fault_are_named(plant):
    """The silent clip and each pair of equal samples are named."""
    (silent,) = found(plant("silent_clip"))
    assert silent["evidence"]["samples"] == ["en-1"]
    pairs = found(plant("duplicated_data"))[0]["evidence"]["pairs"]
    assert pairs
    assert all({f"{a}-again", a} == {a, b} or {f"{b}-again", b} == {a, b} for a, b in pairs)


def test_nothing_of_a_fault_is_left(plant, tmp_path):
    """After a training with a fault, all functions are restored, and a new training is as before."""
    places = [place[:2] for fault in FAULTS.values() for place in fault.functions]
    assert {(TrainingForward, "_text_rows"), (batch, "build_example")} <= set(places)
    before = [getattr(owner, name) for owner, name in places]
    base, manifest = write_base(tmp_path / "base", 4), CLIPS / "manifest.jsonl"
    sound = train(base, manifest, tmp_path / "before", max_steps=1, log_steps=1)
    counts = [dict(event, run_id="", ts="") for event in sound.named("token_counts")]
    plant("same_index")
    for fault in FAULTS.values():
        with fault.planted():
            assert not fault.functions or [getattr(owner, name) for owner, name in places] != before
    assert [getattr(owner, name) for owner, name in places] == before
    after = train(base, manifest, tmp_path / "after", max_steps=1, log_steps=1)
    assert [dict(event, run_id="", ts="") for event in after.named("token_counts")] == counts
    assert found(after) == []


def test_nothing_is_left_of_a_training_that_failed():
    """Any exception restores the functions."""
    before = TrainingForward._text_rows
    with pytest.raises(KeyboardInterrupt), FAULTS["same_index"].planted():
        raise KeyboardInterrupt
    assert TrainingForward._text_rows is before
