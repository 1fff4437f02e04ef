"""Votes for a stop come back from the device without a wait."""

import signal

import pytest
import torch

from higgs_audio_trainer.training.stopping import Stopping


@pytest.mark.parametrize("received", [None, signal.SIGTERM, signal.SIGINT])
def test_a_vote_comes_back(device, without_synchronisation, received):
    """The votes that are summed on the device name the reason of the stop, or none."""
    stopping = Stopping(lambda: received)
    summed = stopping.ballot().to(device) * 2
    with without_synchronisation():
        stopping.count(summed)
    assert stopping.voted() == received


def test_each_step_has_its_own_votes(device, without_synchronisation):
    """The votes of a step do not change after the next step has counted its votes."""
    stopping = Stopping(lambda: signal.SIGTERM)
    votes = stopping.ballot().to(device)
    nothing = torch.zeros_like(votes)
    with without_synchronisation():
        stopping.count(votes)
    assert stopping.voted() == signal.SIGTERM
    with without_synchronisation():
        stopping.count(nothing)
    assert stopping.voted() is None
