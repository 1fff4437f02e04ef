"""The fault zoo: one tiny training for each mistake, and the diagnosis that finds it."""

import shutil

import pytest

from higgs_audio_trainer.data import batch
from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.demo.run import CLIPS
from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser
from higgs_audio_trainer.events import RunStart
from higgs_audio_trainer.logs.dues import dues
from higgs_audio_trainer.logs.typed import typed
from higgs_audio_trainer.model import HiggsAudioForTraining
from tests.zoo.runs import Base, found, train, write_base

#: What is found besides, and rightly so: labels one slot back hold no stop.
ALSO = {"shifted_minus_1": {"no_stop_target"}}
#: Faults that show only in what is learned: by which step at the latest. All others are found at step 1.
LEARNED = {"codebook_shuffled": 60, "stop_unlearned": 60, "lr_x1000": 6}
WARNINGS = {"duplicate_samples", "constant_sample", "dead_codebook", "stop_never_predicted", "masked_out"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("zoo"), 4)


@pytest.fixture
def plant(base, tmp_path):
    """Train with a fault and return the events."""

    def trained(name):
        fault = FAULTS[name]
        copy = Base(tmp_path / "base" / "model", tmp_path / "base" / "codec")
        shutil.copytree(base.model.parent, copy.model.parent)
        shutil.copytree(CLIPS, tmp_path / "clips")
        fault.files(copy.model.parent, tmp_path / "clips")
        steps = LEARNED.get(name, 2)
        log_steps = max(1, steps // 6)
        manifest = tmp_path / "clips" / "manifest.jsonl"
        return train(copy, manifest, tmp_path / "out", fault=fault, max_steps=steps, log_steps=log_steps)

    return trained


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(plant, name):
    """It is found in time, as severe as it is, and nothing else is said but what follows from it."""
    memory = plant(name)
    code = FAULTS[name].found_by
    by_it = [event for event in found(memory) if event["code"] == code]
    assert by_it, f"{name} is not found: {[event['code'] for event in found(memory)]}"
    assert by_it[0]["step"] <= LEARNED.get(name, 1)
    assert {event["severity"] for event in by_it} == {"warning" if code in WARNINGS else "error"}
    assert {event["code"] for event in found(memory)} - {code} <= ALSO.get(name, set())
    assert memory.named("run_end")[0]["diagnoses"][code] >= 1
    assert found_in_the_log(memory) == [stable(event) for event in memory.named("diagnosis")]


def found_in_the_log(memory):
    """Look through the events as `diagnose` does."""
    diagnoser, events = Diagnoser(), []
    for part in dues(map(typed, memory.records)):
        if isinstance(part, RunStart):
            diagnoser.start(part)
        else:
            events += diagnoser.check(part)
    return [(event.step, event.code, event.severity, event.codebook, event.message) for event in events]


def stable(event):
    return tuple(event[name] for name in ("step", "code", "severity", "codebook", "message"))


def test_shifted_labels_are_named_with_their_offset(plant):
    """The evidence says by how much, and the message what it comes of."""
    memory = plant("same_index")
    for event in memory.named("diagnosis"):
        if event["code"] == "shifted_alignment":
            offsets = event["evidence"]["offset"]
            assert set(offsets if isinstance(offsets, list) else [offsets]) == {-1}
    assert {event["shift"] for event in memory.named("prediction_sample")} == {0}
    shown = [window for event in memory.named("prediction_sample") for window in (event["first"], event["last"])]
    assert all(window["inputs"] == window["labels"] for window in shown if -100 not in window["labels"])


def test_the_dead_codebook_is_named(plant):
    """It is the one that was shuffled, and no other."""
    dead = [event for event in found(plant("codebook_shuffled")) if event["code"] == "dead_codebook"]
    assert [event["codebook"] for event in dead] == [3]


def test_nothing_of_a_fault_is_left(plant):
    """After the run every function is the one that it was."""
    places = [place[:2] for fault in FAULTS.values() for place in fault.functions]
    before = [getattr(owner, name) for owner, name in places]
    plant("shifted_plus_1")
    for fault in FAULTS.values():
        with fault.planted():
            assert not fault.functions or [getattr(owner, name) for owner, name in places] != before
    assert [getattr(owner, name) for owner, name in places] == before
    assert (HiggsAudioForTraining, "_text_rows") in places
    assert (batch, "build_example") in places
