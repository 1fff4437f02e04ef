"""The device under test, and what all tests here share."""

from contextlib import contextmanager

import pytest
import torch

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Return the name of the device. A test on a CUDA device carries the marker `cuda`."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="session")
def checkpoint(tiny):
    """Open the tiny checkpoint."""
    return open_checkpoint(str(tiny.model_dir))


@pytest.fixture
def without_synchronisation(device):
    """Return a context in which a synchronisation with a CUDA device raises."""

    @contextmanager
    def guarded():
        if device == "cpu":
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return guarded
