"""The Qwen3 decoder of transformers over the tokens of a batch, without padding and without masks.

The classes hold the modules of transformers under the names of transformers. Without a layout they compute what the
classes of transformers compute.

Shape suffixes: B batch, S token sequence, H hidden; N tokens, text first.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Qwen3Config
from transformers.models.qwen3 import modeling_qwen3 as native

from higgs_audio_trainer.data.route import Route
from higgs_audio_trainer.families.routed import Layout, attend, heads, layout_of


class RoutedQwen3Layer(native.Qwen3DecoderLayer):
    """Layer that also takes tokens in the order of a route."""

    def forward(self, hidden_NH: Tensor, *args: Any, layout: Layout | None = None, **kwargs: Any) -> Tensor:
        """Return the hidden states after the layer, [N, H].

        Args:
            hidden_NH: Hidden states.
            *args: Arguments of the layer of transformers.
            layout: Layout of the tokens. None for the layer of transformers over [B, S, H].
            **kwargs: Arguments of the layer of transformers.
        """
        if layout is None:
            output: Tensor = super().forward(hidden_NH, *args, **kwargs)
            return output
        hidden_NH = hidden_NH + _attend(self.self_attn, self.input_layernorm(hidden_NH), layout)
        return hidden_NH + self.mlp(self.post_attention_layernorm(hidden_NH))


def _attend(attention: native.Qwen3Attention, hidden_NH: Tensor, layout: Layout) -> Tensor:
    query = attention.q_norm(heads(attention.q_proj, hidden_NH, attention.head_dim))
    key = attention.k_norm(heads(attention.k_proj, hidden_NH, attention.head_dim))
    value = heads(attention.v_proj, hidden_NH, attention.head_dim)
    return attend(attention, query, key, value, layout, native)


class RoutedQwen3(native.Qwen3Model):
    """Embedding of the text, layers and last norm, over tokens in the order of a route or over a padded batch."""

    _no_split_modules = [RoutedQwen3Layer.__name__]  # noqa: RUF012 - what FSDP wraps, in the form of transformers

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.__class__ = RoutedQwen3Layer

    def forward(self, *args: Any, along: Route | None = None, shape: tuple[int, int] = (0, 0), **kwargs: Any) -> Any:
        """Return the last hidden state of each token, [N, H], or without a route the output of transformers.

        Args:
            *args: Arguments of the backbone of transformers. With a route, the embeddings of the tokens, [N, H].
            along: Route of the batch.
            shape: B and S of the batch of the route.
            **kwargs: Arguments of the backbone of transformers.
        """
        if along is None:
            return super().forward(*args, **kwargs)
        (hidden_NH,) = args
        layout = layout_of(self, hidden_NH, shape, along)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_NH = layer(hidden_NH, layout=layout)
        return self.norm(hidden_NH)
