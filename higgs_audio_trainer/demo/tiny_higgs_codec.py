"""A small codec of the class of the Higgs codec, with random weights that are fitted to the bundled clips.

Random weights alone give the same few codes for all speech. The acoustic encoder of transformers starts with weights so
small that its output is lost beside the output of the semantic encoder, and all codebooks start with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import HiggsAudioV2TokenizerConfig

from higgs_audio_trainer.data.audio import load_audio, resample
from higgs_audio_trainer.data.higgs_codec import higgs_codec_class

SAMPLING_RATE_HZ = 24_000
STRIDES = [8, 5, 4, 2, 3]  # of the published codec, 960 samples a frame
_KBPS_PER_CODEBOOK = 0.25  # 25 frames a second of 10 bits
_HIDDEN = 32  # of each of the two encoders
_LEAST_STD = 1e-2  # of a feature, beside the largest: rounding errors are far below
_LOUDNESS = 0.1  # standard deviation of decoded speech


def build_higgs_codec(codebooks: int) -> Any:
    """Return a small Higgs codec with random weights and well-spread codes, 25 frames a second at 24 kHz.

    Args:
        codebooks: Number of codebooks K, each of 1024 codes.
    """
    config = HiggsAudioV2TokenizerConfig(
        target_bandwidths=[_KBPS_PER_CODEBOOK * codebooks],
        codebook_dim=max(1, 2 * _HIDDEN // codebooks),
        acoustic_model_config={
            "model_type": "dac",
            "encoder_hidden_size": 4,
            "decoder_hidden_size": 64,
            "downsampling_ratios": STRIDES,
            "upsampling_ratios": STRIDES,
            "hidden_size": _HIDDEN,
        },
        semantic_model_config={
            "model_type": "hubert",
            "hidden_size": _HIDDEN,
            "intermediate_size": 2 * _HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "conv_dim": [16] * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "mask_time_prob": 0.0,
        },
    )
    codec = higgs_codec_class()(config).eval()
    for module in (*codec.acoustic_encoder.modules(), *codec.acoustic_decoder.modules()):
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    with torch.inference_mode():
        features_NH = torch.cat([_features(codec, samples_11T) for samples_11T in _clips()])
        _fit_quantizer(codec, features_NH)
        _fit_loudness(codec, features_NH)
    return codec


def _clips() -> Iterator[torch.Tensor]:
    """Yield the bundled clips, float32 [1, 1, T]."""
    for path in sorted((Path(__file__).parent / "clips").glob("*.flac")):
        mix, rate = load_audio(path)
        yield torch.from_numpy(resample(mix.waveform, rate, SAMPLING_RATE_HZ))[None, None]


def _features(codec: Any, samples_11T: torch.Tensor) -> torch.Tensor:
    """Return the features before the linear layer `fc` and the quantizer, float32 [frames, H]."""
    semantic_1HF = codec.encoder_semantic(codec._extract_semantic_features(samples_11T).transpose(1, 2))  # noqa: SLF001
    acoustic_1HF = codec.acoustic_encoder(F.pad(samples_11T, (codec.pad, codec.pad)))[..., : semantic_1HF.shape[-1]]
    return torch.cat([acoustic_1HF, semantic_1HF], dim=1)[0].T


def _fit_quantizer(codec: Any, features_NH: torch.Tensor) -> None:
    """Give the features mean 0 and variance 1 without correlation, and each codebook normal entries and own directions.

    A codebook that shared its directions with an earlier one would see what the earlier one left, near zero.
    """
    mean_H = features_NH.mean(0)
    variances_H, axes_HH = torch.linalg.eigh(torch.cov(features_NH.T).double())
    stds_H = variances_H.clamp(min=0).sqrt()
    rotation_HH = nn.init.orthogonal_(torch.empty_like(axes_HH))
    whitening_HH = rotation_HH @ (axes_HH / stds_H.clamp(min=_LEAST_STD * float(stds_H.max()))).T
    codec.fc.weight.copy_(whitening_HH)
    codec.fc.bias.copy_(-codec.fc.weight @ mean_H)
    for index, quantizer in enumerate(codec.quantizer.quantizers):
        size = quantizer.codebook.embed.shape[1]
        directions = torch.arange(index * size, (index + 1) * size) % len(mean_H)
        quantizer.project_in.weight.copy_(torch.eye(len(mean_H))[directions])
        quantizer.project_out.weight.copy_(quantizer.project_in.weight.T)
        for part in (quantizer.project_in, quantizer.project_out):
            nn.init.zeros_(part.bias)
        nn.init.normal_(quantizer.codebook.embed)


def _fit_loudness(codec: Any, features_NH: torch.Tensor) -> None:
    """Scale the last layer of the decoder to the loudness of speech."""
    decoded = codec.acoustic_decoder(codec.fc2(codec.fc(features_NH))[None].transpose(1, 2))
    codec.acoustic_decoder.conv2.weight.mul_(_LOUDNESS / decoded.std())
