"""Attention over the tokens of a batch in the order of a route, shared by the backbones of the families.

Projections, norms and feed-forward layers see the N tokens of a batch without padding. Only attention sees the padded
batch [B, S]. Padding is on the right, so causal attention needs no mask.

Shape suffixes: B batch, S token sequence, H hidden, D head; N tokens in the order of the route; X heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from higgs_audio_trainer.data.route import Route


class Layout(NamedTuple):
    """Layout of the tokens of a batch, the same in all layers.

    Attributes:
        num_text: Number of text tokens, which come first.
        num_audio: Number of audio tokens.
        places_N: Place of each token in the flattened batch, b * S + s, int64.
        shape: B and S.
        rotation: Cosines and sines of the position of each token, [N, D] each.
        causal_mask: Causal mask in the form of the attention implementation. None for implementations that need none.
    """

    num_text: int
    num_audio: int
    places_N: Tensor
    shape: tuple[int, int]
    rotation: tuple[Tensor, Tensor]
    causal_mask: Any

    def split(self, hidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parts of text and of audio."""
        text_TH, audio_AH = hidden_NH.split([self.num_text, self.num_audio])
        return text_TH, audio_AH


def inputs_of(input_ids: Tensor, audio_input_ids: Tensor, route: Route) -> tuple[Tensor, Tensor]:
    """Return the ids of the text tokens [T] and the codes of the audio tokens [A, K], in the order of the route.

    Args:
        input_ids: Token ids, int64 [B, S].
        audio_input_ids: Codes of the audio frames, int64 [B, F, K].
        route: Route of the batch.
    """
    places_N, frame_places_A = route["places"], route["frame_places"]
    text_ids_T = input_ids.flatten().index_select(0, places_N[: len(places_N) - len(frame_places_A)])
    return text_ids_T, audio_input_ids.flatten(0, 1).index_select(0, frame_places_A)


def layout_of(backbone: Any, hidden_NH: Tensor, shape: tuple[int, int], route: Route) -> Layout:
    """Return the layout of a batch.

    Args:
        backbone: Backbone of transformers, with `config` and `rotary_emb`.
        hidden_NH: Embeddings of the tokens.
        shape: B and S.
        route: Route of the batch.
    """
    places_N, num_audio = route["places"], len(route["frame_places"])
    cosine, sine = backbone.rotary_emb(hidden_NH, (places_N % shape[1])[None])
    mask = _causal_mask(backbone.config, hidden_NH, shape)
    return Layout(len(places_N) - num_audio, num_audio, places_N, shape, (cosine[0], sine[0]), mask)


def _causal_mask(config: Any, hidden_NH: Tensor, shape: tuple[int, int]) -> Any:
    implementation = config._attn_implementation  # noqa: SLF001 - has no public name
    if implementation == "sdpa" or "flash" in implementation:
        return None  # these kernels know causal attention, and are faster without a mask
    return create_causal_mask(config, hidden_NH.new_empty(*shape, 1), None, None)


def heads(projection: Any, hidden_NH: Tensor, head_dim: int) -> Tensor:
    """Return queries, keys or values of a projection, [N, X, D]."""
    projected: Tensor = projection(hidden_NH)
    return projected.unflatten(-1, (-1, head_dim))


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, native: Any) -> Tensor:
    """Return the output of an attention module at each token, [N, H].

    Args:
        attention: Attention module of transformers.
        query: Queries before the rotation, [N, X, D].
        key: Keys before the rotation, [N, X, D].
        value: Values, [N, X, D].
        layout: Layout of the tokens.
        native: Python module of transformers with the model's `apply_rotary_pos_emb` and `eager_attention_forward`.
    """
    query, key = native.apply_rotary_pos_emb(query, key, *layout.rotation)
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation,  # noqa: SLF001 - has no public name
        native.eager_attention_forward,
    )
    attended, _ = kernel(
        attention,
        *(_padded(part, layout) for part in (query, key, value)),
        layout.causal_mask,
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
    )
    output: Tensor = attention.o_proj(attended.flatten(0, 1).flatten(1).index_select(0, layout.places_N))
    return output


def _padded(values_NXD: Tensor, layout: Layout) -> Tensor:
    """Return the values of tokens at the places of the tokens, [B, X, S, D], 0 at padding."""
    length, rest = layout.shape[0] * layout.shape[1], values_NXD.shape[1:]
    padded = values_NXD.new_zeros(length, *rest).index_copy_(0, layout.places_N, values_NXD)
    return padded.view(*layout.shape, *rest).transpose(1, 2)
