"""The decoder of Higgs Audio v2 over the tokens of a batch, without padding and without masks.

The native layers select text and audio tokens by boolean masks. The host waits for the size of each selection: some 500
times in a step of 28 layers. `RoutedBackbone` computes the same layers over the tokens of a `Route`, text tokens first,
then audio tokens, so that each branch is a slice. Only attention sees the padded batch [B, S]. Padding is on the right,
so causal attention needs no mask.

The classes hold the native modules under the native names, so weights and adapters of the native class fit. Without a
route they compute what the native classes compute, for `generate` and for comparisons, but record no intermediate
outputs (`output_hidden_states`).

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks, H hidden, D head; N tokens, text first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.higgs_audio_v2 import modeling_higgs_audio_v2 as native

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


class RoutedLayer(native.HiggsAudioV2DecoderLayer):
    """Layer that also takes tokens in the order of a route."""

    def forward(self, hidden_NH: Tensor, *args: Any, layout: Layout | None = None, **kwargs: Any) -> Tensor:
        """Return the hidden states after the layer, [N, H].

        Args:
            hidden_NH: Hidden states.
            *args: Arguments of the native layer.
            layout: Layout of the tokens. None for the native layer over [B, S, H].
            **kwargs: Arguments of the native layer.
        """
        if layout is None:
            return super().forward(hidden_NH, *args, **kwargs)
        text_TH, audio_AH = layout.split(hidden_NH)
        normed_NH = torch.cat([self.input_layernorm(text_TH), self.audio_input_layernorm(audio_AH)])
        hidden_NH = hidden_NH + _attend(self.self_attn, normed_NH, layout)
        text_TH, audio_AH = layout.split(hidden_NH)
        text_TH = self.mlp(self.post_attention_layernorm(text_TH))
        audio_AH = self.audio_mlp(self.audio_post_attention_layernorm(audio_AH))
        return hidden_NH + torch.cat([text_TH, audio_AH])


class RoutedBackbone(native.HiggsAudioV2Model):
    """Embeddings, layers and last norm, over tokens in the order of a route or over a padded batch."""

    @classmethod
    def adopt(cls, backbone: native.HiggsAudioV2Model) -> None:
        """Turn a native backbone into a routed backbone in place. Modules and parameters stay."""
        backbone.__class__ = cls
        for layer in backbone.layers:
            layer.__class__ = RoutedLayer

    def forward(
        self,
        input_ids: Tensor | None = None,
        audio_input_ids: Tensor | None = None,
        *args: Any,
        along: Route | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the last hidden state of each token, [N, H], or without a route the outputs of the native backbone.

        Args:
            input_ids: Token ids, int64 [B, S].
            audio_input_ids: Codes of the audio frames, int64 [B, F, K].
            *args: Further arguments of the native backbone.
            along: Route of the batch.
            **kwargs: Further arguments of the native backbone.
        """
        if along is None:
            return super().forward(input_ids, audio_input_ids, *args, **kwargs)
        assert input_ids is not None
        assert audio_input_ids is not None
        return self._routed(input_ids, audio_input_ids, along)

    def _routed(self, input_ids: Tensor, audio_input_ids: Tensor, route: Route) -> Tensor:
        places_N, frame_places_A = route["places"], route["frame_places"]
        num_audio = len(frame_places_A)
        num_text = len(places_N) - num_audio
        text_ids = input_ids.flatten().index_select(0, places_N[:num_text])
        frames_AK = audio_input_ids.flatten(0, 1).index_select(0, frame_places_A)
        hidden_NH = torch.cat([self.embed_tokens(text_ids), self.embed_audio_tokens(frames_AK)])
        shape = (input_ids.shape[0], input_ids.shape[1])
        cosine, sine = self.rotary_emb(hidden_NH, (places_N % shape[1])[None])
        layout = Layout(num_text, num_audio, places_N, shape, (cosine[0], sine[0]), self._causal_mask(hidden_NH, shape))
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_NH = layer(hidden_NH, layout=layout)
        return self.norm(hidden_NH)

    def _causal_mask(self, hidden_NH: Tensor, shape: tuple[int, int]) -> Any:
        implementation = self.config._attn_implementation  # noqa: SLF001 - has no public name
        if implementation == "sdpa" or "flash" in implementation:
            return None  # these kernels know causal attention, and are faster without a mask
        return create_causal_mask(self.config, hidden_NH.new_empty(*shape, 1), None, None)


def _attend(attention: native.HiggsAudioV2Attention, hidden_NH: Tensor, layout: Layout) -> Tensor:
    """Return the output of an attention module at each token, [N, H]. Projections see no padding."""
    query, key, value = (
        projection(hidden_NH).unflatten(-1, (-1, attention.head_dim))
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = native.apply_rotary_pos_emb(query, key, *layout.rotation)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation,  # noqa: SLF001 - has no public name
        native.eager_attention_forward,
    )
    attended, _ = attend(
        attention,
        *(_padded(part, layout) for part in (query, key, value)),
        layout.causal_mask,
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
    )
    return attention.o_proj(attended.flatten(0, 1).flatten(1).index_select(0, layout.places_N))


def _padded(values_NXD: Tensor, layout: Layout) -> Tensor:
    """Return the values of tokens at the places of the tokens, [B, X, S, D], 0 at padding."""
    length, rest = layout.shape[0] * layout.shape[1], values_NXD.shape[1:]
    padded = values_NXD.new_zeros(length, *rest).index_copy_(0, layout.places_N, values_NXD)
    return padded.view(*layout.shape, *rest).transpose(1, 2)
