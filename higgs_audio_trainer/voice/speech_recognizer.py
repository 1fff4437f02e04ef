"""Speech recognition by any model of transformers' pipeline, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from higgs_audio_trainer.data.audio import Waveform, resample
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.hub import hub_error
from higgs_audio_trainer.third_party_imports import prepare_imports

_LEAST_S = 0.1  # the convolutions of a recognizer need some samples


class SpeechRecognizer:
    """A model that writes down speech: Whisper, wav2vec 2.0 with CTC, or any other that transformers' pipeline loads.

    Whisper recognizes the language by itself. Models that generate text take the most likely tokens, without beams.

    Args:
        name: Folder, or name on the Hugging Face Hub.

    Raises:
        UserError: The model cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        prepare_imports()
        from transformers import pipeline

        try:
            self._pipeline: Any = pipeline(
                "automatic-speech-recognition", model=name, device="cpu", dtype=torch.float32, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError) as error:
            raise hub_error(error, "--say_asr", name) or UserError(
                f"--say_asr {name}: the model cannot be loaded: {one_line(error)}"
            ) from error

    def transcript(self, waveform: Waveform, rate: int) -> str:
        """Return the text of speech.

        Args:
            waveform: Samples, float32 [T]. No samples give no text.
            rate: Sampling rate, Hz.
        """
        if not len(waveform):
            return ""
        extractor = self._pipeline.feature_extractor
        to_rate = int(extractor.sampling_rate)
        samples = resample(waveform, rate, to_rate)  # the pipeline itself would need torchaudio
        samples = np.pad(samples, (0, max(0, round(_LEAST_S * to_rate) - len(samples))))
        options: dict[str, Any] = {}
        if self._pipeline.type.startswith("seq2seq"):
            options["generate_kwargs"] = {"num_beams": 1}  # the pipeline's default of 5 beams is slow on a CPU
        if self._pipeline.type == "seq2seq_whisper" and len(samples) > extractor.n_samples:
            options["return_timestamps"] = True  # Whisper continues where its window of 30 s ends
        return str(self._pipeline({"raw": samples, "sampling_rate": to_rate}, **options)["text"])
