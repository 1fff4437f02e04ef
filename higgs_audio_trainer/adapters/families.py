"""Adapters of known model families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from higgs_audio_trainer.adapters.adapter import Adapter, Reading, UnreadableError
from higgs_audio_trainer.adapters.logits import DepthLogits
from higgs_audio_trainer.events import IGNORE_INDEX

_NO_TOKEN = -1  # at a position without an audio frame
_NO_DEPTH = -101  # label of a CSM frame of which only the first codebook is trained


def _decoder_tokens(model: Any, _outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the decoder inputs: the given inputs, or the labels moved right by one position, as in the model."""
    config = model.config
    tokens, labels = inputs.get("decoder_input_ids"), inputs.get("labels")
    if tokens is None and isinstance(labels, Tensor):
        start = getattr(config, "decoder_start_token_id", None)
        moved = F.pad(labels[:, :-1], (1, 0), value=_NO_TOKEN if start is None else start)
        tokens = moved.masked_fill(moved == IGNORE_INDEX, config.pad_token_id or 0)
    return {**inputs, "decoder_tokens": tokens}


def _codes_at_placeholders(model: Any, _outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add codes and labels of Higgs Audio v2 at the placeholders of the frames, in order, [B, S, K]."""
    config = model.config
    input_ids, codes = inputs.get("input_ids"), inputs.get("audio_input_ids")
    labels, mask = inputs.get("audio_labels"), inputs.get("audio_input_ids_mask")
    if not (isinstance(input_ids, Tensor) and isinstance(codes, Tensor) and isinstance(labels, Tensor)):
        return inputs  # reading raises an error that names the missing tensor
    is_frame = torch.ones(codes.shape[:2], dtype=torch.bool, device=codes.device) if mask is None else mask.bool()
    is_audio = (input_ids == config.audio_token_id) | (input_ids == config.audio_delay_token_id)
    placed = {}
    for name, values, fill in (("codes", codes, _NO_TOKEN), ("labels", labels, IGNORE_INDEX)):
        placed[name] = values.new_full((*input_ids.shape, values.shape[-1]), fill)
        placed[name][is_audio] = values[is_frame]
    return {**inputs, "codes_at_positions": placed["codes"], "labels_at_positions": placed["labels"]}


def _frames(tokens: Tensor, codebooks: int) -> Tensor:
    """Return decoder tokens as [B, S, K], from [B * K, S], [B, K, S] or [B, S, K]."""
    return tokens if tokens.ndim == len("BSK") else tokens.reshape(-1, codebooks, tokens.shape[-1]).transpose(1, 2)


def _musicgen_tokens(model: Any, outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the inputs of MusicGen's decoder, [B, S, K]: the given codes, or the labels moved right by one position.

    The melody variant puts the condition in front of the codes, so that the logits of the labels are the last logits.
    """
    has_encoder = hasattr(model.config, "decoder")
    decoder, labels = model.config.decoder if has_encoder else model.config, inputs.get("labels")
    tokens, logits = inputs.get("decoder_input_ids" if has_encoder else "input_ids"), getattr(outputs, "logits", None)
    if isinstance(tokens, Tensor):
        tokens = _frames(tokens, decoder.num_codebooks)
    elif isinstance(labels, Tensor):
        start = getattr(decoder, "decoder_start_token_id", None) or decoder.bos_token_id or decoder.pad_token_id
        moved = F.pad(labels[:, :-1], (0, 0, 1, 0), value=start)
        tokens = moved.masked_fill(moved == IGNORE_INDEX, decoder.pad_token_id)
    if isinstance(labels, Tensor) and isinstance(logits, Tensor):
        logits = logits[:, -labels.shape[1] :]
    return {**inputs, "decoder_tokens": tokens, "logits": logits}


def _dia_tokens(model: Any, _outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the inputs and the labels of Dia's decoder, [B, S, K] each."""
    given = {"decoder_tokens": inputs.get("decoder_input_ids"), "labels_of_frames": inputs.get("labels")}
    K = model.config.decoder_config.num_channels
    return {**inputs, **{name: _frames(it, K) if isinstance(it, Tensor) else it for name, it in given.items()}}


def _csm_frames(model: Any, outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add codes and labels [B, S, K] and logits [B, S, K, V] of CSM by frame.

    For waveforms, the codec inside of the model computes the codes; the function calls the codec a second time.
    """
    tokens, labels = inputs.get("input_ids"), inputs.get("labels")
    first_BSV, depth_NJV = getattr(outputs, "logits", None), getattr(outputs, "depth_decoder_logits", None)
    if not (isinstance(tokens, Tensor) and isinstance(labels, Tensor) and isinstance(depth_NJV, Tensor)):
        return {**inputs, "logits_of_frames": None}
    if tokens.ndim == len("BS"):
        waves, cutoffs = inputs.get("input_values"), inputs.get("input_values_cutoffs")
        merge = model._merge_input_ids_with_input_values  # noqa: SLF001 - no public function returns these codes
        codes = merge(tokens, waves, cutoffs, torch.full_like(labels, _NO_TOKEN))["labels"]
        expanded = torch.where(codes == _NO_TOKEN, labels[..., None], codes)
        expanded[..., 1:].masked_fill_((labels == _NO_DEPTH)[..., None], IGNORE_INDEX)
        tokens, labels = codes, expanded
    is_frame = (labels[..., 1:] != IGNORE_INDEX).any(dim=-1)
    logits = None if first_BSV is None else DepthLogits(first_BSV, depth_NJV, is_frame)
    return {**inputs, "codes_of_frames": tokens, "labels_of_frames": labels, "logits_of_frames": logits}


def _moshi_frames(model: Any, outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add codes, labels and logits of Moshi's own voice by frame. The forward pass of Moshi delays the labels."""
    labels, codes = inputs.get("audio_labels"), inputs.get("moshi_audio_codes")
    logits, K = getattr(outputs, "audio_logits", None), model.config.num_codebooks
    if codes is None and isinstance(waves := inputs.get("moshi_input_values"), Tensor):
        codes = model.audio_encoder.encode(waves, num_quantizers=K)[0]
    if isinstance(labels, Tensor) and isinstance(logits, Tensor):
        none = model.config.audio_vocab_size
        labels, _ = model.build_delay_pattern_mask(labels, none, none, max_length=labels.shape[-1] + 1)
        logits = logits.view(len(labels), -1, *logits.shape[-2:])
    return {**inputs, "moshi_audio_codes": codes, "labels_of_frames": labels, "audio_logits": logits}


CAUSAL_LM = Adapter("causal language model", (Reading("text"),))
UNSHIFTED_LM = Adapter("language model whose loss does not shift", (Reading("text", shift=0),))
ENCODER_DECODER = Adapter(
    "encoder-decoder", (Reading("text", inputs="decoder_tokens", shift=0),), prepare=_decoder_tokens
)
HIGGS_AUDIO = Adapter(
    "Higgs Audio v2",
    (
        Reading(  # the forward pass never returns text logits
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
CSM = Adapter(
    "CSM",
    (
        Reading(
            "audio",
            logits="logits_of_frames",
            labels="labels_of_frames",
            inputs="codes_of_frames",
            logits_axes="B S K V",
            labels_axes="B S K",
            codebooks="num_codebooks",
            stops=("codebook_eos_token_id",),
        ),
    ),
    prepare=_csm_frames,
    layers="backbone_model",
    depth="depth_decoder",
)
DIA = Adapter(
    "Dia",
    (
        Reading(
            "audio",
            labels="labels_of_frames",
            inputs="decoder_tokens",
            shift=0,
            logits_axes="(B K) S V",
            labels_axes="B S K",
            codebooks="decoder_config.num_channels",
            stops=("decoder_config.eos_token_id",),
        ),
    ),
    prepare=_dia_tokens,
    layers="model.decoder",
)
MOSHI = Adapter(
    "Moshi",
    (
        Reading("text", labels="text_labels"),
        Reading(  # the loss compares the depth decoder with the labels at the row's own position
            "audio",
            logits="audio_logits",
            labels="labels_of_frames",
            inputs="moshi_audio_codes",
            shift=0,
            logits_axes="B S K V",
            labels_axes="B K S",
            codebooks="num_codebooks",
            stops=(),  # Moshi never stops
        ),
    ),
    prepare=_moshi_frames,
    ignored=("audio_vocab_size",),
    layers="decoder",
    depth="depth_decoder",
)


def _musicgen(codebooks: str, pad: str, layers: str) -> Adapter:
    reading = Reading(
        "audio",
        inputs="decoder_tokens",
        shift=0,
        logits_axes="(B K) S V",
        labels_axes="B S K",
        codebooks=codebooks,
        stops=(),  # the length is an argument; padding is masked
    )
    return Adapter("MusicGen", (reading,), prepare=_musicgen_tokens, ignored=(pad,), layers=layers)


MUSICGEN = _musicgen("decoder.num_codebooks", "decoder.pad_token_id", "decoder")
MUSICGEN_DECODER = _musicgen("num_codebooks", "pad_token_id", "model.decoder")
_BY_CLASS = {
    "HiggsAudioV2ForConditionalGeneration": HIGGS_AUDIO,
    "CsmForConditionalGeneration": CSM,
    "DiaForConditionalGeneration": DIA,
    "MoshiForConditionalGeneration": MOSHI,
    "MusicgenForConditionalGeneration": MUSICGEN,
    "MusicgenMelodyForConditionalGeneration": MUSICGEN,
    "MusicgenForCausalLM": MUSICGEN_DECODER,
    "MusicgenMelodyForCausalLM": MUSICGEN_DECODER,
}
_BY_CLASS |= (
    dict.fromkeys(  # decoders without the encoder: the loss does not shift, so labels equal to inputs teach copying
        (
            *("BartForCausalLM", "BigBirdPegasusForCausalLM", "BlenderbotForCausalLM", "BlenderbotSmallForCausalLM"),
            *("MBartForCausalLM", "MarianForCausalLM", "MvpForCausalLM", "PLBartForCausalLM", "PegasusForCausalLM"),
            *("TrOCRForCausalLM", "WhisperForCausalLM", "XLMWithLMHeadModel", "XLNetLMHeadModel"),
        ),
        UNSHIFTED_LM,
    )
)
_LANGUAGE_MODELS = frozenset(
    {
        *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values(),
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
        *MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.values(),
    }
)
_UNREADABLE = frozenset(  # models with other losses
    {"CpmAntForCausalLM", "ProphetNetForCausalLM", "ProphetNetForConditionalGeneration"}
)


def adapter_for(model: nn.Module) -> Adapter:
    """Return the adapter of a model, by the class of the model or by a base class.

    Args:
        model: Model without wrappers.

    Raises:
        UnreadableError: No adapter is known. The message shows how to write an adapter.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> adapter_for(GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1))).name
        'causal language model'
    """
    for cls in type(model).__mro__:
        if cls.__name__ in _BY_CLASS:
            return _BY_CLASS[cls.__name__]
        if cls.__name__ in _LANGUAGE_MODELS - _UNREADABLE:
            return ENCODER_DECODER if getattr(model.config, "is_encoder_decoder", False) else CAUSAL_LM
    raise UnreadableError(
        "expected a model with a known adapter (a causal language model, an encoder-decoder, Higgs Audio v2, CSM, Dia, "
        f"Moshi or MusicGen), got {type(model).__name__}. Declare an adapter: PredictionLogger(..., "
        "adapter=Adapter('my model', (Reading('text', logits='logits', labels='labels', shift=1),))), with Adapter and "
        "Reading from higgs_audio_trainer.adapters, and check the adapter with check_adapter(adapter, model, batch)."
    )
