"""A step of a model on a rank, replicated by DDP or sharded by FSDP2, and the gradients of a step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.families.training_forward import count_targets


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a loss by the names of the parameters; empty for a loss of no target."""
    model.zero_grad()
    if loss.requires_grad:
        loss.backward()
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def step_on_a_rank(kind: str, model: Any, make_batch: Callable[[], dict[str, Any]], out: Path) -> None:
    """Take a step on this rank's two samples of a batch of four, and save the gradients on rank 0.

    Args:
        kind: ddp or fsdp.
        model: Model with adapters.
        make_batch: Returns the batch.
        out: File of the gradients.
    """
    rank = dist.get_rank()
    if kind == "ddp":
        wrapped: Any = DistributedDataParallel(model)
    else:
        for layer in model.base_model.model.model.layers:
            fully_shard(layer)
        wrapped = fully_shard(model)
    whole, half = make_batch(), make_batch()
    keep = slice(2 * rank, 2 * rank + 2)
    for name in ("labels", "audio_labels"):  # the other half is masked, so that both ranks have the same shapes
        half[name] = torch.full_like(half[name], IGNORE_INDEX)
        half[name][keep] = whole[name][keep]
    loss = wrapped(**half, num_targets=count_targets(whole["labels"], whole["audio_labels"])).loss
    got = gradients(model, loss * dist.get_world_size())  # both average gradients over the ranks
    full = {name: part.full_tensor() if isinstance(part, DTensor) else part for name, part in got.items()}
    if rank == 0:
        torch.save(full, out)
    # The group stays. DDP frees the last reference to a destroyed group while it holds the interpreter lock, for which
    # gloo's thread may wait.
