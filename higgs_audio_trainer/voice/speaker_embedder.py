"""Speaker embeddings by any x-vector model of transformers, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from higgs_audio_trainer.data.audio import Waveform, resample
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.hub import hub_error
from higgs_audio_trainer.third_party_imports import prepare_imports

_UNUSED = ("objective.", "classifier.")  # weights for the training of the model
_LEAST_FRAMES = 2  # that the statistics over time are computed of
_MEL_KERNEL, _MEL_STRIDE = (560,), (320,)  # of two log-mel frames, for a model without convolutions of samples

Embedding = npt.NDArray[np.float32]


class SpeakerEmbedder:
    """A model that turns speech into an embedding of the speaker, such as WavLM with an x-vector head.

    Args:
        name: Folder, or name on the Hugging Face Hub.

    Raises:
        UserError: The model cannot be loaded or has weights missing.
    """

    def __init__(self, name: str) -> None:
        prepare_imports()
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        try:
            self._extractor: Any = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
            loaded: Any = AutoModelForAudioXVector.from_pretrained(
                name, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError) as error:
            raise hub_error(error, "--say_speaker", name) or UserError(
                f"--say_speaker {name}: the model cannot be loaded: {one_line(error)}"
            ) from error
        self._model, info = loaded
        self._model.eval()
        missing = [
            key for key in info["missing_keys"] if not key.startswith(_UNUSED) and not key.endswith("masked_spec_embed")
        ]
        self._least_samples = _least_samples(self._model.config)
        if missing:  # transformers took random weights
            raise UserError(f"--say_speaker {name}: expected weights for {', '.join(sorted(missing)[:3])}, got none.")

    def embedding(self, waveform: Waveform, rate: int) -> Embedding | None:
        """Return the embedding of a speaker, float32 [E]. None if the speech is shorter than the model needs.

        Args:
            waveform: Samples, float32 [T].
            rate: Sampling rate, Hz.
        """
        to_rate = int(self._extractor.sampling_rate)
        samples = resample(waveform, rate, to_rate)
        if len(samples) < self._least_samples:
            return None
        inputs = self._extractor(samples, sampling_rate=to_rate, return_tensors="pt")
        with torch.inference_mode():
            embedding: Embedding = self._model(**inputs).embeddings[0].numpy()
        return embedding


def similarity_of(one: Embedding, other: Embedding) -> float | None:
    """Return the cosine of the angle between two embeddings. None if an embedding is zero or not finite.

    Args:
        one: Embedding, float32 [E].
        other: Embedding, float32 [E].

    Example:
        >>> similarity_of(np.array([3, 0], dtype=np.float32), np.array([1, 1], dtype=np.float32))
        0.7071067811865475
    """
    first, second = one.astype(np.float64), other.astype(np.float64)
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    if not np.isfinite(norms) or norms == 0:
        return None
    return float(np.clip(first @ second / norms, -1, 1))


def _least_samples(config: Any) -> int:
    """Return the least number of samples for the convolutions and time-delay layers of an x-vector model."""
    layers = zip(config.tdnn_kernel, config.tdnn_dilation, strict=True)
    length = _LEAST_FRAMES + sum((kernel - 1) * dilation for kernel, dilation in layers)
    kernels = getattr(config, "conv_kernel", _MEL_KERNEL)
    strides = getattr(config, "conv_stride", _MEL_STRIDE)
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        length = (length - 1) * stride + kernel
    return int(length)
