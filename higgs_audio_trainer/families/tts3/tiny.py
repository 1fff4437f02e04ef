"""Tiny checkpoint of Higgs TTS 3 with random weights in the original on-disk format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.tiny_size import (
    CODES_PER_CODEBOOK,
    HEAD_DIM,
    SAMPLING_RATE_HZ,
    TinySize,
    byte_tokenizer,
)
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config
from higgs_audio_trainer.families.tts3.model import HiggsTts3
from higgs_audio_trainer.families.tts3.names import CODEC, original_name
from higgs_audio_trainer.families.tts3.prompt import AUDIO, BEGIN, REFERENCE_AUDIO, REFERENCE_TEXT, TEXT

#: Values of the control tokens of users' texts, by category.
CONTROLS = {
    "emotion": (
        *("elation", "amusement", "enthusiasm", "determination", "pride", "contentment", "affection", "relief"),
        *("contemplation", "confusion", "surprise", "awe", "longing", "arousal", "anger", "fear", "disgust"),
        *("bitterness", "sadness", "shame", "helplessness"),
    ),
    "style": ("singing", "shouting", "whispering"),
    "sfx": ("cough", "laughter", "crying", "screaming", "burping", "humming", "sigh", "sniff", "sneeze"),
    "prosody": (
        *("speed_very_slow", "speed_slow", "speed_fast", "speed_very_fast", "pause", "long_pause"),
        *("pitch_low", "pitch_high", "expressive_high", "expressive_low"),
    ),
}

#: Special tokens of prompts and of users' texts.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(BEGIN, AUDIO, TEXT, REFERENCE_TEXT, REFERENCE_AUDIO),
    *(f"<|{category}:{value}|>" for category, values in CONTROLS.items() for value in values),
)
_LONGEST = 32_768  # positions
_INITIALIZER_RANGE = 0.6  # at 0.1 the demo, which adapts no head, learned no sentence in its 60 steps
#: Weights that stand for the bundled codec, which the trainer does not read, with their shapes.
_OF_THE_CODEC = {"quantizer.quantizers.0.codebook.embed": (16, 8), "acoustic_decoder.conv1.weight": (8, 8, 7)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte of a text, and the special tokens.

    Example:
        >>> len(build_tokenizer().encode("<|sfx:sigh|>شاي"))
        7
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(SPECIAL_TOKENS),
        eos_token="<|im_end|>",  # noqa: S106 - the name of a token, no secret
        pad_token="<|endoftext|>",  # noqa: S106 - the name of a token, no secret
        clean_up_tokenization_spaces=False,
    )


def config_of(size: TinySize, codec_dir: Path) -> dict[str, Any]:
    """Return the content of config.json, with the keys of the full-size checkpoint.

    Args:
        size: Size of the checkpoint.
        codec_dir: Folder of the codec.
    """
    heads = size.hidden_size // HEAD_DIM
    return {
        "architectures": ["HiggsMultimodalQwen3ForConditionalGeneration"],
        "model_type": "higgs_multimodal_qwen3",
        "audio_token_id": -100,
        "audio_tokenizer_id": str(codec_dir.absolute()),
        "sample_rate": SAMPLING_RATE_HZ,
        "torch_dtype": "float32",
        RANDOM_WEIGHTS: True,
        "audio_encoder_config": {
            "model_type": "higgs_audio_encoder",
            "encoder_type": "discrete",
            "num_codebooks": size.codebooks,
            "vocab_size": CODES_PER_CODEBOOK + 2,  # with stream BOS and EOS
            "out_dim": size.hidden_size,
            "tie_word_embeddings": True,
            "use_delay_pattern": True,
        },
        "text_config": {
            "model_type": "qwen3",
            "vocab_size": size.vocab_size,
            "hidden_size": size.hidden_size,
            "intermediate_size": 2 * size.hidden_size,
            "num_hidden_layers": size.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "head_dim": HEAD_DIM,
            "max_position_embeddings": _LONGEST,
            "initializer_range": size.initializer_range or _INITIALIZER_RANGE,
            "rms_norm_eps": 1e-6,
            "rope_theta": None,  # as in the full-size checkpoint; 1,000,000 is meant
            "tie_word_embeddings": True,
        },
    }


def write_tiny(folder: Path, size: TinySize, codec_dir: Path) -> None:
    """Write a tiny checkpoint, see `Family.write_tiny`.

    Raises:
        UserError: The vocabulary has fewer rows than the tokenizer has tokens.
    """
    tokenizer, config = build_tokenizer(), config_of(size, codec_dir)
    if size.vocab_size < len(tokenizer):
        raise UserError(f"--vocab_size: expected at least {len(tokenizer)} for Higgs TTS 3, got {size.vocab_size}")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    model = HiggsTts3(HiggsTts3Config.read(str(folder), config))
    tied = model.get_expanded_tied_weights_keys()
    weights = {original_name(name): weight for name, weight in model.state_dict().items() if name not in tied}
    codec = {f"{CODEC}{name}": torch.randn(shape) for name, shape in _OF_THE_CODEC.items()}
    save_file({**weights, **codec}, folder / "model.safetensors", metadata={"format": "pt"})
