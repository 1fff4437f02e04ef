"""Higgs TTS 3: a Qwen3 backbone with one embedding and one head for the codes of all codebooks.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks, C entries of a codebook, H hidden; T text
tokens, A audio tokens, N = T + A tokens in the order of a route.
"""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen3Model

from higgs_audio_trainer.data.route import Route
from higgs_audio_trainer.families.routed import inputs_of
from higgs_audio_trainer.families.training_forward import TrainingForward
from higgs_audio_trainer.families.tts3.backbone import RoutedQwen3, RoutedQwen3Layer
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config
from higgs_audio_trainer.families.tts3.generation import CachedRows, RowStream, generate_rows

#: Name of the KV cache among the arguments of transformers, which has renamed the argument.
_CACHE = "cache" if "cache" in inspect.signature(Qwen3Model.forward).parameters else "past_key_values"


class HiggsTts3(TrainingForward, PreTrainedModel):
    """The model, for training and for generation.

    Parameters have the names of the public port, so the names of an adapter's weights do too.
    """

    config_class = HiggsTts3Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    #: Heads that may share weights, which `save_pretrained` then leaves out. Which do, says the method below.
    _tied_weights_keys = MappingProxyType(  # type: ignore[assignment]  # a class variable, and never changed
        {"audio_head.weight": "audio_embedding.weight", "lm_head.weight": "model.embed_tokens.weight"}
    )
    _no_split_modules = [RoutedQwen3Layer.__name__]  # noqa: RUF012 - what FSDP wraps, in the form of transformers
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: HiggsTts3Config) -> None:
        super().__init__(config)
        codes = config.num_codebooks * config.codebook_size
        self.model = RoutedQwen3(config.text_config)
        self.audio_embedding = nn.Embedding(codes, config.hidden_size)
        self.audio_head = nn.Linear(config.hidden_size, codes, bias=False)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:  # noqa: ARG002
        """Return the tied weights, head by head, since transformers has one setting for all heads."""
        ties = {}
        if self.config.has_tied_audio_head:
            ties["audio_head.weight"] = "audio_embedding.weight"
        if self.config.has_tied_text_head:
            ties["lm_head.weight"] = "model.embed_tokens.weight"
        return ties

    @property
    def text_head(self) -> nn.Module:
        """Module from hidden states to the logits of the text."""
        return self.lm_head

    @property
    def audio_head_module(self) -> nn.Module:
        """Module from hidden states to the logits of all codebooks."""
        return self.audio_head

    def embed_frames(self, codes: Tensor) -> Tensor:
        """Return the embedding of each frame, [..., H]: the sum of the embeddings of its codes.

        Args:
            codes: Codes of the frames, int64 [..., K].
        """
        num_codebooks, size = self.config.num_codebooks, self.config.codebook_size
        rows = codes + torch.arange(0, num_codebooks * size, size, device=codes.device)
        embedded: Tensor = self.audio_embedding(rows)
        return embedded.sum(dim=-2).to(embedded.dtype)  # under autocast, a GPU adds in float32

    def embed(self, input_ids: Tensor, audio_input_ids: Tensor | None, audio_input_ids_mask: Tensor | None) -> Tensor:
        """Return the embeddings of a padded batch, [B, S, H], for generation. The host waits for the device.

        Args:
            input_ids: Token ids, int64 [B, S]. The n-th placeholder stands for the n-th frame of the sample.
            audio_input_ids: Codes of the frames, int64 [B, F, K]. None without frames.
            audio_input_ids_mask: Frames that are no padding, bool [B, F]. None if all are.
        """
        is_audio_BS = input_ids == self.config.audio_token_id
        embedded: Tensor = self.model.embed_tokens(input_ids.masked_fill(is_audio_BS, 0))
        if audio_input_ids is None:
            return embedded
        if audio_input_ids_mask is None:
            audio_input_ids_mask = torch.ones_like(audio_input_ids[..., 0], dtype=torch.bool)
        frames_AH = self.embed_frames(audio_input_ids[audio_input_ids_mask])
        return embedded.index_put((is_audio_BS,), frames_AH.to(embedded.dtype))

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of the codes, [..., K, C].

        Args:
            hidden: Last hidden states, [..., H].
        """
        logits: Tensor = self.audio_head(hidden)
        return logits.unflatten(-1, (self.config.num_codebooks, self.config.codebook_size))

    def step(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Return the last hidden states of a padded batch, [B, S, H].

        Args:
            inputs_embeds: Embeddings, [B, S, H].
            attention_mask: 1 at tokens and 0 at padding, int64 [B, cached + S]. None without padding.
            position_ids: Positions, int64 [B, S]. None for positions that follow the cache.
            cache: Cache of transformers, to which keys and values are added. None without one.
        """
        output = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=cache is not None,
            **{_CACHE: cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        audio_input_ids: Tensor | None = None,
        audio_input_ids_mask: Tensor | None = None,
        **options: Any,
    ) -> RowStream:
        """Return generated rows, see `generate_rows`. The name is one that wrappers of a sharded model pass on.

        Args:
            input_ids: Tokens of the prompts, padded on the left, int64 [B, S].
            attention_mask: 1 where a token is, int64 [B, S].
            audio_input_ids: Rows of the references, int64 [B, F, K]. None without any.
            audio_input_ids_mask: True where a row is, bool [B, F]. None without any.
            **options: Arguments of `generate_rows`.
        """
        logits_of = CachedRows(self, input_ids, attention_mask, audio_input_ids, audio_input_ids_mask)
        return generate_rows(logits_of, **options)

    def forward(
        self,
        input_ids: Tensor,
        audio_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        audio_labels: Tensor | None = None,
        route: Route | None = None,
        num_targets: Tensor | None = None,
        attention_mask: Tensor | None = None,
        audio_input_ids_mask: Tensor | None = None,
    ) -> Any:
        """Return the losses of a batch with a route, see `TrainingForward.losses`, or hidden states without one.

        Args:
            input_ids: Token ids, int64 [B, S], `audio_token_id` at frames.
            audio_input_ids: Codes of the audio frames, int64 [B, F, K].
            labels: Text labels, int64 [B, S], -100 where masked.
            audio_labels: Audio labels, int64 [B, F, K], -100 where masked.
            route: Route of the batch. None for the hidden states.
            num_targets: Divisors of the losses, [1 + K].
            attention_mask: 1 at tokens and 0 at padding, int64 [B, S]. A route stands in.
            audio_input_ids_mask: Frames that are no padding, bool [B, F]. A route stands in.

        Returns:
            `TrainingOutput`, or without a route the last hidden states, [B, S, H].
        """
        if route is None:
            return self.step(self.embed(input_ids, audio_input_ids, audio_input_ids_mask), attention_mask)
        assert audio_input_ids is not None
        assert labels is not None
        assert audio_labels is not None
        text_ids_T, frames_AK = inputs_of(input_ids, audio_input_ids, route)
        embedded_NH = torch.cat([self.model.embed_tokens(text_ids_T), self.embed_frames(frames_AK)])
        hidden_NH = self.model(embedded_NH, along=route, shape=(input_ids.shape[0], input_ids.shape[1]))
        return self.losses(hidden_NH, labels, audio_labels, route, num_targets)
