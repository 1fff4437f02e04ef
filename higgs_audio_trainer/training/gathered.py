"""Weights of a sharded model, whole for calls other than its forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, register_fsdp_forward_method


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Make `generate` of a model that FSDP shards usable within the block. Does nothing for other models.

    Each rank must enter the block and generate the same number of frames.
    """
    if isinstance(model, FSDPModule) and "generate" not in vars(model):  # once: each call would wrap it again
        register_fsdp_forward_method(model, "generate")  # type: ignore[arg-type]  # also a Module
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, recurse=False, writeback=False):
            yield
    else:
        yield
