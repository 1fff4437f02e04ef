"""Tiny base checkpoint and codec with random weights in the real on-disk format.

The code for a full-size checkpoint also reads the tiny checkpoint. The checkpoint has a configuration, safetensors, a
tokenizer with the special tokens of Higgs, a chat template, and a codec: a DAC, or one of the Higgs codec's class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DacConfig,
    DacFeatureExtractor,
    DacModel,
    HiggsAudioV2Config,
    HiggsAudioV2ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.demo.tiny_higgs_codec import build_higgs_codec
from higgs_audio_trainer.errors import UserError

SAMPLING_RATE_HZ = 24_000
CODES_PER_CODEBOOK = 1024
# Encoder strides of the Higgs codec, 960 samples a frame and 25 frames a second.
_STRIDES = [3, 5, 8, 8]
_HEAD_DIM = 32
_SILENCE_STD = 1e-6  # a hundredth of the latent of speech, and far above rounding errors

#: Special tokens of prompts, labels and users' texts.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_out_bos|>",
    "<|AUDIO_OUT|>",
    "<|audio_eos|>",
    "<|reserved_special_token_6|>",  # the delay token
    "<|scene_desc_start|>",
    "<|scene_desc_end|>",
    "<|recipient|>",
)

#: Renders the same prompts as the template of the full-size checkpoint.
CHAT_TEMPLATE = """\
{%- macro words(content) -%}
  {%- if content is string -%}
    {{- content | trim -}}
  {%- else -%}
    {%- for part in content if part.type == 'text' -%}{{- part.text | trim -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- if not messages or messages[0].role != 'system' -%}
  {{- raise_exception('The first turn must be a system turn.') -}}
{%- endif -%}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' + words(messages[0].content) -}}
{%- set turns = namespace(rest=messages[1:]) -%}
{%- if turns.rest and turns.rest[0].role == 'scene' -%}
  {{- '\n\n<|scene_desc_start|>\n' + words(turns.rest[0].content) + '\n<|scene_desc_end|>' -}}
  {%- set turns.rest = turns.rest[1:] -%}
{%- endif -%}
{{- '<|eot_id|>' -}}
{%- for turn in turns.rest -%}
  {{- '<|start_header_id|>' + turn.role + '<|end_header_id|>\n\n' -}}
  {%- if turn.role == 'assistant' -%}
    {%- if turn.content is string or turn.content[0].type != 'audio' -%}
      {{- raise_exception('An assistant turn holds audio.') -}}
    {%- endif -%}
    {{- '<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>' -}}
  {%- else -%}
    {{- words(turn.content) -}}
  {%- endif -%}
  {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|>' -}}
{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class TinySize:
    """Size of the tiny checkpoint.

    Attributes:
        hidden_size: Width, a multiple of 64.
        layers: Number of decoder layers.
        codebooks: Number of codebooks K of the codec.
        vocab_size: Size of the text vocabulary. The tokenizer itself needs fewer tokens.

    Raises:
        UserError: A size is out of range.

    Example:
        >>> TinySize(layers=2).hidden_size
        128
    """

    hidden_size: int = 128
    layers: int = 4
    codebooks: int = 8
    vocab_size: int = 512

    def __post_init__(self) -> None:
        least = 256 + len(SPECIAL_TOKENS)
        for name, value, low in (
            ("layers", self.layers, 1),
            ("codebooks", self.codebooks, 1),
            ("vocab_size", self.vocab_size, least),
            ("hidden_size", self.hidden_size, 2 * _HEAD_DIM),
        ):
            if value < low:
                raise UserError(f"--{name}: expected at least {low}, got {value}")
        if self.hidden_size % (2 * _HEAD_DIM):
            raise UserError(f"--hidden_size: expected a multiple of {2 * _HEAD_DIM}, got {self.hidden_size}")


def write_tiny(
    folder: Path, size: TinySize | None = None, *, codec: Literal["dac", "higgs"] = "dac", seed: int = 0
) -> tuple[Path, Path]:
    """Write a tiny checkpoint to `folder/model` and its codec to `folder/codec`.

    Args:
        folder: Parent folder, created if missing.
        size: Size of the checkpoint. By default `TinySize()`.
        codec: Class of the codec. The Higgs codec's needs twice the time of a DAC for a clip.
        seed: Seed of the random weights.

    Returns:
        Folders of model and codec.

    Raises:
        UserError: A folder exists already or cannot be written.
    """
    size = size or TinySize()
    model_dir, codec_dir = folder / "model", folder / "codec"
    for path in (model_dir, codec_dir):
        if path.exists():
            raise UserError(f"tiny: expected a new folder, got {path}, which exists already. Choose another folder.")
    try:
        model_dir.mkdir(parents=True)
        codec_dir.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"tiny: {folder}: {error.strerror}. Choose a writable folder.") from error
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build_model(size, tokenizer).save_pretrained(model_dir)
        build = build_codec if codec == "dac" else build_higgs_codec
        build(size.codebooks).save_pretrained(codec_dir)
    tokenizer.save_pretrained(model_dir)
    for path in (model_dir, codec_dir):
        DacFeatureExtractor(sampling_rate=SAMPLING_RATE_HZ, hop_length=960).save_pretrained(path)
    audio_tokenizer = {
        "audio_tokenizer_class": "DacModel" if codec == "dac" else "HiggsAudioV2TokenizerModel",
        "audio_tokenizer_name_or_path": str(codec_dir.absolute()),
    }
    processor = {"processor_class": "HiggsAudioV2Processor", "audio_tokenizer": audio_tokenizer}
    (model_dir / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    return model_dir, codec_dir


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte of a text, and the special tokens.

    Example:
        >>> build_tokenizer().encode("<|eot_id|>شاي", add_special_tokens=False)[1:] == build_tokenizer().encode("شاي")
        True
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",  # noqa: S106 - the name of a token, no secret
        eos_token="<|end_of_text|>",  # noqa: S106 - the name of a token, no secret
        pad_token="<|end_of_text|>",  # noqa: S106 - the name of a token, no secret
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(size: TinySize, tokenizer: PreTrainedTokenizerFast) -> HiggsAudioV2ForConditionalGeneration:
    """Return the native model with random weights, including the text head."""
    ids = tokenizer.get_vocab()
    config = HiggsAudioV2Config(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=2 * size.hidden_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden_size // _HEAD_DIM,
        num_key_value_heads=size.hidden_size // _HEAD_DIM // 2,
        head_dim=_HEAD_DIM,
        num_codebooks=size.codebooks,
        codebook_size=CODES_PER_CODEBOOK + 2,  # with stream BOS and EOS
        initializer_range=0.1,  # at this width the usual 0.02 shows no progress within a minute
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|eot_id|>"],
        pad_token_id=ids["<|end_of_text|>"],
        audio_token_id=ids["<|AUDIO_OUT|>"],
        audio_bos_token_id=ids["<|audio_out_bos|>"],
        audio_delay_token_id=ids["<|reserved_special_token_6|>"],
    )
    setattr(config, RANDOM_WEIGHTS, True)
    return HiggsAudioV2ForConditionalGeneration(config, use_text_head=True)


def build_codec(codebooks: int) -> DacModel:
    """Return a small DAC with random weights and well-spread codes, 25 frames a second at 24 kHz."""
    codec = DacModel(
        DacConfig(
            encoder_hidden_size=16,
            decoder_hidden_size=64,
            downsampling_ratios=_STRIDES,
            n_codebooks=codebooks,
            codebook_size=CODES_PER_CODEBOOK,
            sampling_rate=SAMPLING_RATE_HZ,
        )
    )
    # DAC starts without biases. Silence would then be a zero latent, and the codebooks compare latents by direction
    # alone. The codes of a silent frame would depend on rounding errors and differ between processors.
    bias = codec.encoder.conv2.bias
    assert bias is not None
    torch.nn.init.normal_(bias, std=_SILENCE_STD)
    return codec
