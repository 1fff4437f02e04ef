"""Loss and gradients on the device equal those on the CPU."""

import pytest
import torch

from benchmarks.device.full_size import on_device
from tests.batches import collate, lora_model, random_examples, tensors


def loss_and_gradients(checkpoint, tiny, device, dtype):
    """Make one step and return loss and gradients as float32 on the CPU."""
    model = lora_model(tiny.model_dir).to(device)
    batch = on_device(tensors(collate(checkpoint, random_examples(checkpoint, 4, seed=3))), device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    gradients = [p.grad.float().cpu().flatten() for p in model.parameters() if p.requires_grad]
    return loss.item(), torch.cat(gradients)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)], ids=["float32", "bfloat16"]
)
def test_loss_and_gradients_are_those_of_the_cpu(checkpoint, tiny, device, dtype, most):
    """Loss and gradients differ from the CPU's in float32 by no more than rounding does."""
    expected_loss, expected = loss_and_gradients(checkpoint, tiny, "cpu", torch.float32)
    loss, gradients = loss_and_gradients(checkpoint, tiny, device, dtype)
    assert loss == pytest.approx(expected_loss, rel=most)
    assert ((gradients - expected).norm() / expected.norm()).item() < most
