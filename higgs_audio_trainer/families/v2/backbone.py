"""The decoder of Higgs Audio v2 over the tokens of a batch, without padding and without masks.

The native layers select text and audio tokens by boolean masks. The host waits for the size of each selection: some 500
times in a step of 28 layers. `RoutedBackbone` computes the same layers over the tokens of a `Route`, text tokens first,
then audio tokens, so that each branch is a slice.

The classes hold the native modules under the native names, so weights and adapters of the native class fit. Without a
route they compute what the native classes compute, for `generate` and for comparisons, but record no intermediate
outputs (`output_hidden_states`).

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks, H hidden; T text tokens, A audio tokens,
N tokens, text first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.higgs_audio_v2 import modeling_higgs_audio_v2 as native

from higgs_audio_trainer.data.route import Route
from higgs_audio_trainer.families.routed import Layout, attend, heads, inputs_of, layout_of


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


class SummedEmbeddings(native.HiggsAudioV2Embeddings):
    """Embeddings of audio frames, in the dtype of the codebooks' embeddings.

    Autocast on CUDA would sum in float32, and with the sums the hidden states of all layers would be float32. Without a
    route the native backbone would raise, because its text embeddings are bfloat16.
    """

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the sum of the embeddings over the codebooks, [..., H].

        Args:
            input_ids: Codes, int64 [..., K].
        """
        embeddings = self.embed_audio_tokens(input_ids + self.audio_tokens_offsets)
        return embeddings.sum(dim=-2, dtype=embeddings.dtype)


class RoutedBackbone(native.HiggsAudioV2Model):
    """Embeddings, layers and last norm, over tokens in the order of a route or over a padded batch."""

    @classmethod
    def adopt(cls, backbone: native.HiggsAudioV2Model) -> None:
        """Turn a native backbone into a routed backbone in place. Modules and parameters stay."""
        backbone.__class__ = cls
        backbone._no_split_modules = [RoutedLayer.__name__]  # noqa: SLF001 - what FSDP wraps
        backbone.embed_audio_tokens.__class__ = SummedEmbeddings
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
        text_ids_T, frames_AK = inputs_of(input_ids, audio_input_ids, route)
        hidden_NH = torch.cat([self.embed_tokens(text_ids_T), self.embed_audio_tokens(frames_AK)])
        layout = layout_of(self, hidden_NH, (input_ids.shape[0], input_ids.shape[1]), route)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_NH = layer(hidden_NH, layout=layout)
        return self.norm(hidden_NH)


def _attend(attention: native.HiggsAudioV2Attention, hidden_NH: Tensor, layout: Layout) -> Tensor:
    query, key, value = (
        heads(projection, hidden_NH, attention.head_dim)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return attend(attention, query, key, value, layout, native)
