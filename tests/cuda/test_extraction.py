"""Extraction and token counts on the device equal those on the CPU, over the same forward pass."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from higgs_audio_trainer.extraction.extraction import Extraction
from higgs_audio_trainer.extraction.token_counts import TokenCounter
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.training.model_streams import micro_batch_of
from tests.batches import collate, lora_model, random_examples, tensors

EVERYTHING = WindowSettings(samples=3, window=5, codebooks=tuple(range(8)), decode=None, ranks=True)


def moved(value, device):
    """Return the tensors of a value on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value):
        parts = {item.name: getattr(value, item.name) for item in fields(value)}
        changed = {name: moved(part, device) for name, part in parts.items()}
        return replace(value, **changed)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    return value


def assert_same(got, expected):
    """Compare values. Floats may differ by rounding."""
    assert type(got) is type(expected)
    if isinstance(expected, float):
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(got, expected)
    elif is_dataclass(expected):
        for item in fields(expected):
            assert_same(getattr(got, item.name), getattr(expected, item.name))
    elif isinstance(expected, tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert got == expected


@pytest.fixture(scope="module")
def forward_passes(checkpoint, tiny):
    """Return outputs and batches of two micro-batches on the CPU."""
    examples = random_examples(checkpoint, 7, seed=2)
    made = []
    for part in (examples[:4], examples[4:]):
        batch = collate(checkpoint, part)
        with torch.no_grad():
            made.append((lora_model(tiny.model_dir)(**tensors(batch)), batch))
    return made


def extracted(forward_passes, checkpoint, device, guarded):
    """Extract a step with everything that a step may show. Only the transfer at the end waits for the device."""
    counter = TokenCounter(with_mask_map=True)
    extraction = Extraction("train", EVERYTHING, counter, with_audio=True)
    on_device = [(moved(outputs, device), moved(batch, device)) for outputs, batch in forward_passes]
    with guarded():
        for outputs, batch in on_device:
            read = micro_batch_of(outputs, batch, batch["samples"], vocabulary=checkpoint.vocabulary)
            extraction.observe(read)
        sums = extraction.sums(8, torch.device(device))
    grad_norm = torch.tensor(1.5, device=device)
    return extraction.finish(sums, step=1, epoch=0.5, grad_norm=grad_norm)


class Operations(TorchDispatchMode):
    """Keeps the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


def test_extraction_makes_no_tensor_of_numbers_of_the_host(forward_passes, checkpoint):
    """Lists of numbers would be copied to the device in each due step."""
    operations = Operations()
    extracted(forward_passes, checkpoint, "cpu", lambda: operations)
    assert "aten::scatter_add_" in operations.names
    assert "aten::lift_fresh" not in operations.names


def test_extraction_and_counts_are_those_of_the_cpu(forward_passes, checkpoint, device, without_synchronisation):
    """Every integer of events, counts and audio rows is equal. Nothing but the last transfer waits for the device."""

    class Unguarded:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    expected = extracted(forward_passes, checkpoint, "cpu", Unguarded)
    got = extracted(forward_passes, checkpoint, device, without_synchronisation)
    assert expected.samples
    assert expected.counts
    assert expected.audio is not None
    assert_same(got, expected)
