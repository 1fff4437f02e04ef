"""Places of rows by key."""

import random

import pytest

from higgs_audio_trainer.data.preparation import places as module
from higgs_audio_trainer.data.preparation.places import Places, numbers_of


@pytest.mark.parametrize("least", [0, 3, 10_000])
def test_places_act_as_a_dictionary(least, monkeypatch):
    """Whatever lies in arrays and whatever was set lately, also for keys that share their first half."""
    monkeypatch.setattr(module, "_LEAST_RECENT", least)
    draw, places, expected = random.Random(0), Places(), {}
    keys = [bytes([draw.randrange(3)]) * 8 + draw.randrange(40).to_bytes(8) for _ in range(400)]
    for number, key in enumerate(keys):
        if draw.random() < 0.3:
            places.remove(key)
            expected.pop(key, None)
        else:
            places.set(key, number)
            expected[key] = number
        if number % 50 == 0:
            assert len(places) == len(expected)
        assert all(places.get(one) == expected.get(one) for one in keys[:: 1 + number % 7])
    assert all((key in places) == (key in expected) for key in keys)


def test_keys_sort_as_their_numbers():
    """So that an array of numbers is searched for a key."""
    keys = sorted(random.Random(1).randbytes(16) for _ in range(50))
    assert numbers_of(b"".join(keys)).tolist() == sorted(numbers_of(b"".join(keys)).tolist())
