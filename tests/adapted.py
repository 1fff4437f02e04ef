"""Tiny random models of several families, each with a batch for the model's forward pass."""

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
    """A causal language model with learned position embeddings."""
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
    """Make native Higgs Audio v2, with the logits of all codebooks in one axis and labels by frame."""
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
    """Make MusicGen, with codebooks in the batch axis and no shift between the logits and the labels."""
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
    labels[1, -3:, 1] = 32  # padding, which the model's loss ignores
    return transformers.MusicgenForConditionalGeneration(config), {
        "input_ids": torch.randint(1, 30, (2, 5)),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
        "labels": labels,
    }


def musicgen_decoder() -> Case:
    """Make the decoder of MusicGen alone, with the codes that the decoder continues as input."""
    whole, batch = musicgen()
    model = transformers.MusicgenForCausalLM(whole.config.decoder)
    return model, {
        "labels": batch["labels"],
        "encoder_hidden_states": torch.randn(2, 4, 16),
        "encoder_attention_mask": torch.ones(2, 4, dtype=torch.long),
    }


def musicgen_melody() -> Case:
    """Make MusicGen with a melody. The condition stands before the codes in the same sequence."""
    config = transformers.MusicgenMelodyConfig(
        text_encoder=transformers.T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2),
        audio_encoder=transformers.EncodecConfig(num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=32),
        decoder=transformers.MusicgenMelodyDecoderConfig(
            vocab_size=32,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_codebooks=2,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            pad_token_id=32,
            bos_token_id=32,
        ),
        num_chroma=4,
        chroma_length=3,
    )
    return transformers.MusicgenMelodyForConditionalGeneration(config), musicgen()[1]


def _mimi(codebooks: int) -> transformers.MimiConfig:
    return transformers.MimiConfig(
        hidden_size=16,
        num_filters=2,
        num_residual_layers=1,
        upsampling_ratios=[4, 4],
        codebook_size=16,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=codebooks,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=16,
        upsample_groups=16,
    )


_CSM_K = 4


def _csm() -> transformers.CsmForConditionalGeneration:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 32, "num_codebooks": _CSM_K}
    config = transformers.CsmConfig(
        **small,
        text_vocab_size=60,
        audio_token_id=50,
        audio_eos_token_id=51,
        codebook_eos_token_id=0,
        codebook_pad_token_id=31,
        bos_token_id=1,
        pad_token_id=2,
        codec_config=_mimi(_CSM_K),
        depth_decoder_config={**small, "backbone_hidden_size": 32, "pad_token_id": 31},
    )
    return transformers.CsmForConditionalGeneration(config)


def csm() -> Case:
    """Make CSM with waveforms as input.

    The codec makes the codes. The backbone predicts the first codebook, and the depth decoder predicts the other
    codebooks.
    """
    model = _csm()
    for name, buffer in model.codec_model.named_buffers():
        if name.endswith("embed_sum"):
            buffer.normal_(std=0.1)  # an untrained codec makes one code only
    frames = 5
    samples = 32 * frames
    audio = [50] * frames + [51]
    input_ids = torch.tensor([[1, 5, 6, *audio, 2, 2], [1, 7, 8, 9, 10, *audio]])
    labels = input_ids.masked_fill(input_ids < 50, -100)
    labels[0, 4] = -101  # the other codebooks of this frame are not trained
    return model, {
        "input_ids": input_ids,
        "attention_mask": (input_ids != 2).long(),
        "input_values": torch.randn(2, 1, samples),
        "input_values_cutoffs": torch.tensor([[samples], [samples]]),
        "labels": labels,
    }


def csm_of_codes() -> Case:
    """CSM given codes."""
    codes = torch.randint(1, 31, (2, 9, _CSM_K))
    labels = codes.clone()
    labels[:, :3] = -100
    labels[0, 5, 1:] = -100
    return _csm(), {"input_ids": codes, "attention_mask": torch.ones(2, 9, dtype=torch.long), "labels": labels}


def dia() -> Case:
    """Make Dia, with codebooks in the batch axis of logits and labels."""
    K = 3
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    decoder = {"num_channels": K, "vocab_size": 30, "pad_token_id": 28, "eos_token_id": 27, "bos_token_id": 29}
    decoder |= {"cross_num_attention_heads": 4, "cross_num_key_value_heads": 2, "cross_head_dim": 8}
    config = transformers.DiaConfig(
        encoder_config={**sizes, "vocab_size": 40},
        decoder_config={**sizes, **decoder, "cross_hidden_size": 32},
        delay_pattern=[0, 1, 2],
    )
    codes = torch.randint(0, 27, (2, 10, K))
    codes[:, 0] = 29
    codes[0, -2:] = 27
    labels = codes[:, 1:].clone()
    labels[1, -2:] = -100
    return transformers.DiaForConditionalGeneration(config), {
        "input_ids": torch.randint(1, 40, (2, 6)),
        "decoder_input_ids": codes[:, :-1],
        "labels": labels.transpose(1, 2).reshape(2 * K, -1),
    }


def moshi() -> Case:
    """Make Moshi, with a text stream and the codes of a depth decoder, which the forward pass delays."""
    K, C, S = 3, 20, 9
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "head_dim": 8}
    config = transformers.MoshiConfig(
        vocab_size=50,
        **sizes,
        audio_vocab_size=C,
        num_codebooks=K,
        max_position_embeddings=64,
        audio_encoder_config=_mimi(K).to_dict(),
        depth_decoder_config={**sizes, "input_size": 32, "num_codebooks": K, "audio_vocab_size": C, "vocab_size": 50},
    )
    model = transformers.MoshiForConditionalGeneration(config)
    raw = torch.randint(0, C, (2, K, S + 1))
    delayed = raw.clone()
    delayed[:, 1:, 1:], delayed[:, 1:, 0] = raw[:, 1:, :-1], C
    text = torch.randint(0, 50, (2, S))
    return model, {
        "input_ids": text,
        "user_audio_codes": torch.randint(0, C, (2, K, S)),
        "moshi_audio_codes": delayed[..., :-1],
        "text_labels": text,
        "audio_labels": raw[..., 1:],  # of the next frame
    }


CASES: dict[str, Callable[[], Case]] = {
    "llama": llama,
    "gpt2": gpt2,
    "t5": t5,
    "higgs_audio": higgs_audio,
    "musicgen": musicgen,
    "musicgen_decoder": musicgen_decoder,
    "musicgen_melody": musicgen_melody,
    "csm": csm,
    "csm_of_codes": csm_of_codes,
    "dia": dia,
    "moshi": moshi,
}


def make(name: str, seed: int = 0) -> tuple[Any, dict[str, Tensor]]:
    """Make the model of a case and a batch for the model."""
    torch.manual_seed(seed)
    model, batch = CASES[name]()
    return model.eval(), batch
