"""Tiny checkpoint of Higgs Audio v2 with random weights in the real on-disk format."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import (
    DacFeatureExtractor,
    HiggsAudioV2Config,
    HiggsAudioV2ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.families.tiny_size import (
    CODES_PER_CODEBOOK,
    HEAD_DIM,
    INITIALIZER_RANGE,
    SAMPLING_RATE_HZ,
    TinySize,
    byte_tokenizer,
)

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


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte of a text, and the special tokens.

    Example:
        >>> build_tokenizer().encode("<|eot_id|>شاي", add_special_tokens=False)[1:] == build_tokenizer().encode("شاي")
        True
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(SPECIAL_TOKENS),
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
        num_attention_heads=size.hidden_size // HEAD_DIM,
        num_key_value_heads=size.hidden_size // HEAD_DIM // 2,
        head_dim=HEAD_DIM,
        num_codebooks=size.codebooks,
        codebook_size=CODES_PER_CODEBOOK + 2,  # with stream BOS and EOS
        initializer_range=size.initializer_range or INITIALIZER_RANGE,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|eot_id|>"],
        pad_token_id=ids["<|end_of_text|>"],
        audio_token_id=ids["<|AUDIO_OUT|>"],
        audio_bos_token_id=ids["<|audio_out_bos|>"],
        audio_delay_token_id=ids["<|reserved_special_token_6|>"],
    )
    setattr(config, RANDOM_WEIGHTS, True)
    return HiggsAudioV2ForConditionalGeneration(config, use_text_head=True)


def write_processor(folder: Path, codec_dir: Path, codec_class: str) -> None:
    """Write the files of the processor, which name the codec."""
    DacFeatureExtractor(sampling_rate=SAMPLING_RATE_HZ, hop_length=960).save_pretrained(folder)
    codec = {"audio_tokenizer_class": codec_class, "audio_tokenizer_name_or_path": str(codec_dir.absolute())}
    processor = {"processor_class": "HiggsAudioV2Processor", "audio_tokenizer": codec}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
