"""Tiny base checkpoint and codec with random weights in the real on-disk format.

The code for a full-size checkpoint also reads the tiny checkpoint. The codec is a DAC, or one of the Higgs codec's
class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import DacConfig, DacFeatureExtractor, DacModel

from higgs_audio_trainer.demo.tiny_higgs_codec import build_higgs_codec
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.known import DEFAULT_FAMILY, FAMILIES
from higgs_audio_trainer.families.tiny_size import CODES_PER_CODEBOOK, SAMPLING_RATE_HZ, TinySize

# Encoder strides of the Higgs codec, 960 samples a frame and 25 frames a second.
_STRIDES = [3, 5, 8, 8]
_SILENCE_STD = 1e-6  # a hundredth of the latent of speech, and far above rounding errors


def write_tiny(
    folder: Path,
    size: TinySize | None = None,
    *,
    family: str = DEFAULT_FAMILY,
    codec: Literal["dac", "higgs"] = "dac",
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write a tiny checkpoint to `folder/model` and its codec to `folder/codec`.

    Args:
        folder: Parent folder, created if missing.
        size: Size of the checkpoint. By default `TinySize()`.
        family: Name of the family.
        codec: Class of the codec. The Higgs codec's needs twice the time of a DAC for a clip.
        seed: Seed of the random weights.

    Returns:
        Folders of model and codec.

    Raises:
        UserError: A folder exists already or cannot be written, or the family needs a larger size.
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
    chosen = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec_class = "DacModel" if codec == "dac" else "HiggsAudioV2TokenizerModel"
        try:
            chosen.write_tiny(model_dir, size, codec_dir, codec_class)
        except UserError:
            for path in (model_dir, codec_dir):
                path.rmdir()
            raise
        build = build_codec if codec == "dac" else build_higgs_codec
        build(size.codebooks).save_pretrained(codec_dir)
    DacFeatureExtractor(sampling_rate=SAMPLING_RATE_HZ, hop_length=960).save_pretrained(codec_dir)
    return model_dir, codec_dir


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
