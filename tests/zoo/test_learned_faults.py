"""Fault zoo: mistakes that show only after some learning, and their diagnoses."""

import pytest

from tests.zoo.faults import LEARNED
from tests.zoo.runs import found


@pytest.mark.parametrize("name", LEARNED)
def test_a_fault_is_found_in_time(plant, check_found, name):
    """The diagnosis comes in time with the expected severity, and other diagnoses are only consequences."""
    assert 1 < check_found(name, plant(name)) <= LEARNED[name]


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
