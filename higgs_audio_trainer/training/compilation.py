"""Settings of torch.compile with which one graph serves batches of every shape."""

from __future__ import annotations

import os

import torch._dynamo.config
import torch.fx.experimental._config as shape_config


def compile_for_every_shape() -> None:
    """Let torch.compile make one graph for all batches, through `torch.compile` and through accelerate.

    By default torch compiles anew for a batch of another length, for a batch of one sample, and where a size of the
    first batch was 0 or 1. Numbers of the modules, such as the scale of an adapter, are constants of the graph.
    """
    os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "true")
    shape_config.backed_size_oblivious = True
    torch._dynamo.config.specialize_float = True  # noqa: SLF001 - the module has this name
