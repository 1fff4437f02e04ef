"""Settings of torch.compile for a single graph that serves batches of every shape."""

from __future__ import annotations

import os

import torch._dynamo.config
import torch.fx.experimental._config as shapes


def compile_for_every_shape() -> None:
    """Let torch.compile make one graph for all batches, also where accelerate calls it.

    By default torch compiles anew for a batch of another length. With this call, torch makes another graph only for a
    batch of one sample, for a batch without audio, since sizes of 0 and 1 are special to torch, and for another number
    of chunks of logits (`loss_chunk_rows`). Numbers of the modules, such as the scale of an adapter, are constants of
    the graph. Sizes that happen to be equal, as 8 samples and 8 codebooks, are not taken for the same size.
    """
    os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "true")
    shapes.use_duck_shape = False
    torch._dynamo.config.specialize_float = True  # noqa: SLF001 - the module has this name
