"""Floating-point operations that a training step of a model needs, whatever an implementation computes besides."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import HiggsAudioV2Config

from higgs_audio_trainer.events import IGNORE_INDEX


def step_flops(config: HiggsAudioV2Config, batch: Mapping[str, Tensor], rank: int) -> float:
    """Return the operations of forward and backward of a step with LoRA, `2 * linear + 3 * (attention + adapters)`.

    - `linear`: Forward of the frozen weights, 2 operations per weight and row. A token passes the attention's four
      projections and one of both feed-forward branches, a supervised row one head. Padding does not count. The backward
      costs as much as the forward, because frozen weights have no gradients.
    - `attention`: Forward of scores and weighted values, `2 * S**2 * heads * head_dim` of a causal sequence.
      S is the number of its tokens.
    - `adapters`: Forward of the adapters, `2 * rank * (in + out)` per token and linear module.

    The backward of attention and adapters costs twice the forward. Recomputation by gradient checkpointing does not
    count, as in the usual definition of model FLOPs utilisation.

    Args:
        config: Configuration of the model.
        batch: Batch of the collator, on the host.
        rank: Rank of the adapters.
    """
    H, I, L = config.hidden_size, config.intermediate_size, config.num_hidden_layers  # noqa: E741, N806
    head_dim = config.head_dim or H // config.num_attention_heads
    q, kv = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    modules = ((H, q), (H, kv), (H, kv), (q, H), (H, I), (H, I), (I, H))
    lengths = batch["attention_mask"].sum(dim=1)
    tokens = int(lengths.sum())
    text_rows = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
    audio_rows = int((batch["audio_labels"] != IGNORE_INDEX).any(dim=-1).sum())
    heads = text_rows * H * config.vocab_size + audio_rows * H * config.num_codebooks * config.codebook_size
    linear = 2 * (L * tokens * sum(a * b for a, b in modules) + heads)
    adapters = 2 * L * tokens * rank * sum(a + b for a, b in modules)
    attention = 2 * L * q * int((lengths * lengths).sum())
    return float(2 * linear + 3 * (attention + adapters))
