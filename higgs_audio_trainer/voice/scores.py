"""Scores of generated speech by other models: error rates of what was said, similarity of the voice.

The extra `metrics` installs what the scores need beside the trainer's own dependencies.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_audio_trainer.checkpoint.base_checkpoint import read_config
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.hub import hub_error
from higgs_audio_trainer.third_party_imports import prepare_imports
from higgs_audio_trainer.voice.error_rates import ErrorRates, error_rates

if TYPE_CHECKING:
    from higgs_audio_trainer.data.audio import Waveform

_RECOGNIZERS = ("CTC", "SPEECH_SEQ_2_SEQ", "RNNT", "TDT")  # as transformers names the kinds of models
_EMBEDDERS = ("AUDIO_XVECTOR",)
_WEIGHTS = ("*.safetensors", "*.bin")


class Scorer:
    """Scores generated speech on the CPU.

    Args:
        asr: Model of speech recognition, a folder or a name on the Hugging Face Hub. None for no error rates.
        speaker: Model of speaker embeddings, a folder or a name on the Hub. None for no similarity.

    Raises:
        UserError: A package is missing, or a model is missing, of another kind, or cannot be loaded.
    """

    def __init__(self, asr: str | None, speaker: str | None) -> None:
        from higgs_audio_trainer.voice.speaker_embedder import SpeakerEmbedder
        from higgs_audio_trainer.voice.speech_recognizer import SpeechRecognizer

        check_scorers(asr, speaker)
        self._recognizer = None if asr is None else SpeechRecognizer(asr)
        self._embedder = None if speaker is None else SpeakerEmbedder(speaker)

    def score(
        self, waveform: Waveform, rate: int, text: str, reference: Waveform | None = None
    ) -> dict[str, float | None]:
        """Return `cer`, `wer` and `speaker_similarity` of speech, as an event `generation_sample` has them.

        A score is None without its model. The error rates are None for a text without a letter. The similarity is None
        without a reference, and for speech or a reference that is too short for the model.

        Args:
            waveform: Samples of the speech, float32 [T].
            rate: Sampling rate of speech and reference, Hz.
            text: Text that was to be spoken.
            reference: Recording of the voice, float32 [T'].
        """
        rates = ErrorRates(None, None)
        if self._recognizer is not None:
            rates = error_rates(text, self._recognizer.transcript(waveform, rate))
        return {"cer": rates.cer, "wer": rates.wer, "speaker_similarity": self._similarity(waveform, rate, reference)}

    def _similarity(self, waveform: Waveform, rate: int, reference: Waveform | None) -> float | None:
        from higgs_audio_trainer.voice.speaker_embedder import similarity_of

        if self._embedder is None or reference is None:
            return None
        one, other = self._embedder.embedding(waveform, rate), self._embedder.embedding(reference, rate)
        return None if one is None or other is None else similarity_of(one, other)


def check_scorers(asr: str | None, speaker: str | None) -> None:
    """Check the models of the scores by their configuration, without loading weights.

    Args:
        asr: Model of speech recognition, a folder or a name on the Hugging Face Hub. None for none.
        speaker: Model of speaker embeddings, a folder or a name on the Hub. None for none.

    Raises:
        UserError: A package is missing, or a model is missing or of another kind.
    """
    if asr is not None:
        if find_spec("jiwer") is None:
            raise UserError(
                "--say_asr: expected the package jiwer, got none installed. Run: "
                "pip install 'higgs-audio-trainer[metrics]'"
            )
        _check_model("--say_asr", asr, "a model of speech recognition, such as a Whisper", _RECOGNIZERS)
    if speaker is not None:
        _check_model("--say_speaker", speaker, "an x-vector model, such as a WavLMForXVector", _EMBEDDERS)


def _check_model(flag: str, name: str, expected: str, kinds: tuple[str, ...]) -> None:
    prepare_imports()
    from transformers import AutoFeatureExtractor

    architectures = read_config(name, flag).get("architectures") or []
    if not _classes(kinds).intersection(architectures):
        got = ", ".join(map(str, architectures)) or "one without architectures in its config.json"
        raise UserError(f"{flag} {name}: expected {expected}, got {got}. Name another model.")
    try:
        AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise hub_error(error, flag, name) or UserError(
            f"{flag} {name}: expected a feature extractor beside the model, got: {one_line(error)}"
        ) from error
    folder = Path(name)
    if folder.is_dir() and not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise UserError(f"{flag} {name}: expected a file of weights, got none. Copy the whole folder of the model.")


def _classes(kinds: tuple[str, ...]) -> set[str]:
    """Return the names of transformers' classes of some kinds of models."""
    from transformers.models.auto import modeling_auto

    # A version of transformers may lack a kind.
    mappings: list[dict[str, str]] = [getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES", {}) for kind in kinds]
    return {name for mapping in mappings for name in mapping.values()}
