"""Fault zoo: mistakes that show only after some learning, and their diagnoses."""

import pytest

from higgs_audio_trainer.families.known import FAMILIES
from tests.zoo.faults import LEARNED, planted_in
from tests.zoo.runs import found


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in FAMILIES for name in planted_in(family, LEARNED)]
)
def test_a_fault_is_found_in_time(plant, check_found, family, name):
    """The diagnosis comes in time with the expected severity, and other diagnoses are only consequences."""
    assert 1 < check_found(name, plant(name, family)) <= LEARNED[name]


def test_the_dead_codebook_is_named(plant):
    """Only the shuffled codebook is dead."""
    dead = [event for event in found(plant("codebook_shuffled")) if event["code"] == "dead_codebook"]
    assert [event["codebook"] for event in dead] == [3]


def test_the_stop_tokens_that_are_not_learned_are_counted(plant):
    """The evidence holds each codebook's stop tokens and their small probability."""
    (never,) = [event for event in found(plant("stop_unlearned")) if event["code"] == "stop_never_predicted"]
    assert never["evidence"]["codebooks"] == [0, 1, 2, 3]
    assert never["evidence"]["stop_targets"] == [8, 8, 8, 8]
    assert max(never["evidence"]["stop_probability"]) < 0.01
