"""Tiny random models of several families, each with a batch that its own forward pass takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

Case = tuple[nn.Module, dict[str, Tensor]]


def _labels(tokens: Tensor, masked: int) -> Tensor:
    labels = tokens.clone()
    labels[:, :masked] = -100
    labels[-1, -2:] = -100
    return labels


def llama() -> Case:
    """A causal language model."""
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    input_ids = torch.randint(3, 64, (2, 12))
    input_ids[0, -1] = 2
    return transformers.LlamaForCausalLM(config), {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": _labels(input_ids, 4),
    }


def gpt2() -> Case:
    """A causal language model with learned positions."""
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    input_ids = torch.randint(0, 50, (2, 10))
    return transformers.GPT2LMHeadModel(config), {"input_ids": input_ids, "labels": _labels(input_ids, 2)}


def t5() -> Case:
    """An encoder-decoder."""
    config = transformers.T5Config(
        vocab_size=60,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    labels = torch.randint(2, 60, (2, 7))
    labels[1, -2:] = -100
    return transformers.T5ForConditionalGeneration(config), {
        "input_ids": torch.randint(2, 60, (2, 9)),
        "labels": labels,
    }


def higgs_audio() -> Case:
    """Native Higgs Audio v2: logits of all codebooks in one axis, labels by frame."""
    K, C = 3, 20
    config = transformers.HiggsAudioV2Config(
        vocab_size=70,
        codebook_size=C,
        num_codebooks=K,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        audio_token_id=65,
        audio_delay_token_id=66,
        audio_stream_bos_id=C - 2,
        audio_stream_eos_id=C - 1,
        eos_token_id=2,
        audio_bos_token_id=67,
        pad_token_id=0,
    )
    input_ids = torch.randint(1, 60, (2, 14))
    input_ids[0, 4:12], input_ids[1, 3:9] = 65, 65
    input_ids[0, 10:12] = 66
    codes = torch.randint(0, C, (2, 8, K))
    mask = torch.tensor([[True] * 8, [True] * 6 + [False] * 2])
    labels = codes.clone()
    labels[:, 0], labels[0, 1, 1] = -100, -100
    return transformers.HiggsAudioV2ForConditionalGeneration(config), {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "audio_input_ids": codes,
        "audio_input_ids_mask": mask,
        "audio_labels": labels,
    }


def musicgen() -> Case:
    """MusicGen: codebooks in the batch axis, no shift between the logits and the labels."""
    K = 2
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2),
        audio_encoder=transformers.EncodecConfig(num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=32),
        decoder=transformers.MusicgenDecoderConfig(
            vocab_size=32,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_codebooks=K,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            pad_token_id=32,
            bos_token_id=32,
        ),
    )
    config.decoder.decoder_start_token_id = 32
    labels = torch.randint(0, 32, (2, 9, K))
    labels[1, -3:, 1] = 32  # padding, which its loss passes over
    return transformers.MusicgenForConditionalGeneration(config), {
        "input_ids": torch.randint(1, 30, (2, 5)),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
        "labels": labels,
    }


CASES: dict[str, Callable[[], Case]] = {
    "llama": llama,
    "gpt2": gpt2,
    "t5": t5,
    "higgs_audio": higgs_audio,
    "musicgen": musicgen,
}


def make(name: str, seed: int = 0) -> tuple[Any, dict[str, Tensor]]:
    """Make a model and a batch for it."""
    torch.manual_seed(seed)
    model, batch = CASES[name]()
    return model.eval(), batch
