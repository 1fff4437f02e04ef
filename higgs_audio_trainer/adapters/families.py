"""The families of models that can be read as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from higgs_audio_trainer.adapters.adapter import Adapter, Reading, UnreadableError
from higgs_audio_trainer.events import IGNORE_INDEX

_NO_TOKEN = -1  # at a position that holds no frame of audio


def _decoder_tokens(config: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add what the decoder was fed: as given, or the labels moved right by one, as the model does it."""
    tokens, labels = inputs.get("decoder_input_ids"), inputs.get("labels")
    if tokens is None and isinstance(labels, Tensor):
        start = config.decoder_start_token_id if config.decoder_start_token_id is not None else _NO_TOKEN
        moved = F.pad(labels[:, :-1], (1, 0), value=start)
        tokens = moved.masked_fill(moved == IGNORE_INDEX, config.pad_token_id or 0)
    return {**inputs, "decoder_tokens": tokens}


def _codes_at_placeholders(config: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put the frames of Higgs Audio v2 at their placeholders, in order: codes and labels, [B, S, K]."""
    input_ids, codes = inputs.get("input_ids"), inputs.get("audio_input_ids")
    labels, mask = inputs.get("audio_labels"), inputs.get("audio_input_ids_mask")
    if not (isinstance(input_ids, Tensor) and isinstance(codes, Tensor) and isinstance(labels, Tensor)):
        return inputs  # what is missing is said where it is read
    is_frame = torch.ones(codes.shape[:2], dtype=torch.bool, device=codes.device) if mask is None else mask.bool()
    is_audio = (input_ids == config.audio_token_id) | (input_ids == config.audio_delay_token_id)
    placed = {}
    for name, values, fill in (("codes", codes, _NO_TOKEN), ("labels", labels, IGNORE_INDEX)):
        placed[name] = values.new_full((*input_ids.shape, values.shape[-1]), fill)
        placed[name][is_audio] = values[is_frame]
    return {**inputs, "codes_at_positions": placed["codes"], "labels_at_positions": placed["labels"]}


def _musicgen_tokens(config: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the codes that MusicGen's decoder was fed, [B, S, K]: as given, or the labels moved right by one."""
    decoder, labels = config.decoder, inputs.get("labels")
    tokens = inputs.get("decoder_input_ids")
    if isinstance(tokens, Tensor):
        tokens = tokens.reshape(-1, decoder.num_codebooks, tokens.shape[-1]).transpose(1, 2)
    elif isinstance(labels, Tensor):
        start = getattr(decoder, "decoder_start_token_id", None) or decoder.bos_token_id or decoder.pad_token_id
        moved = F.pad(labels[:, :-1], (0, 0, 1, 0), value=start)
        tokens = moved.masked_fill(moved == IGNORE_INDEX, decoder.pad_token_id)
    return {**inputs, "decoder_tokens": tokens}


CAUSAL_LM = Adapter("causal language model", (Reading("text"),))
ENCODER_DECODER = Adapter(
    "encoder-decoder", (Reading("text", inputs="decoder_tokens", shift=0),), prepare=_decoder_tokens
)
HIGGS_AUDIO = Adapter(
    "Higgs Audio v2",
    (
        Reading(  # its forward never returns the logits of text
            "audio",
            labels="labels_at_positions",
            inputs="codes_at_positions",
            logits_axes="B S (K V)",
            labels_axes="B S K",
            codebooks="num_codebooks",
            stops=("audio_stream_eos_id",),
        ),
    ),
    prepare=_codes_at_placeholders,
)
MUSICGEN = Adapter(
    "MusicGen",
    (
        Reading(
            "audio",
            inputs="decoder_tokens",
            shift=0,
            logits_axes="(B K) S V",
            labels_axes="B S K",
            codebooks="decoder.num_codebooks",
            stops=(),  # its length is given; the padding is masked
        ),
    ),
    prepare=_musicgen_tokens,
    ignored=("decoder.pad_token_id",),
)
_BY_CLASS = {
    "HiggsAudioV2ForConditionalGeneration": HIGGS_AUDIO,
    "MusicgenForConditionalGeneration": MUSICGEN,
}
_ENCODER_DECODERS = frozenset(
    {*MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(), *MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.values()}
)
_SEVERAL_CODEBOOKS = frozenset({"MusicgenForCausalLM", "MusicgenMelodyForCausalLM"})
_CAUSAL_LMS = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) - _SEVERAL_CODEBOOKS


def adapter_for(model: nn.Module) -> Adapter:
    """Find the adapter of a model by its class, or by one that it derives from.

    Raises:
        UnreadableError: none is known; the message shows how to write one.
    """
    for cls in type(model).__mro__:
        if cls.__name__ in _BY_CLASS:
            return _BY_CLASS[cls.__name__]
        if cls.__name__ in _ENCODER_DECODERS and getattr(model.config, "is_encoder_decoder", False):
            return ENCODER_DECODER
        if cls.__name__ in _CAUSAL_LMS:
            return CAUSAL_LM
    raise UnreadableError(
        f"expected a model whose outputs are known (a causal language model, an encoder-decoder, "
        f"{', '.join(_BY_CLASS)}), got {type(model).__name__}. Say what they mean: PredictionLogger(..., "
        "adapter=Adapter('my model', (Reading('text', logits='logits', labels='labels', shift=1),))), both from "
        "higgs_audio_trainer.adapters, and prove it with check_adapter(adapter, model, batch)."
    )
