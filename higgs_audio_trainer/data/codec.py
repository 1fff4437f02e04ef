"""Codec between waveforms and codes, loaded by transformers from a name or a folder."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from higgs_audio_trainer.data.audio import Waveform
from higgs_audio_trainer.errors import UserError

_WANTED = ("*.json", "*.safetensors")
_HASHED = (*_WANTED, "*.bin")  # a folder may hold weights in the older format


class Codec:
    """Encodes clips to codes, and decodes codes to clips.

    The weights are loaded at the first clip. A run with all clips in the cache never loads the weights.

    Args:
        name_or_path: Folder, or name on the Hugging Face Hub.
        device: Device of the computation.

    Attributes:
        sampling_rate_hz: Sampling rate of the codec's audio.
        hop_length: Number of samples of a frame.
        fingerprint: Hash of the codec's configuration and weights.

    Raises:
        UserError: The codec does not exist or is not supported.
    """

    def __init__(self, name_or_path: str, *, device: str = "cpu") -> None:
        self.name = name_or_path
        self._folder = _local_folder(name_or_path)
        self._device = device
        self._model: Any = None
        config = _read_config(self._folder, name_or_path)
        self._kind = config.model_type
        self.sampling_rate_hz = int(config.sampling_rate if self._kind == "dac" else config.sample_rate)
        self.hop_length = int(config.hop_length)
        self.fingerprint = _fingerprint(self._folder)

    def encode(self, waveform: Waveform) -> npt.NDArray[np.int64]:
        """Return the codes of a clip.

        Args:
            waveform: Samples, float32 [T], at `sampling_rate_hz`, at least one frame.

        Returns:
            Codes, int64 [K, frames].

        Raises:
            UserError: The codec cannot be loaded.
        """
        if self._model is None:
            self._model = self._load()
        with torch.inference_mode():
            samples_1CT = torch.from_numpy(np.ascontiguousarray(waveform))[None, None].to(self._device)
            codes_1KF = self._model.encode(samples_1CT).audio_codes
        codes: npt.NDArray[np.int64] = codes_1KF[0].cpu().numpy().astype(np.int64)
        return codes

    def decode(self, codes: npt.NDArray[np.int64]) -> Waveform:
        """Return the waveform of a clip.

        Args:
            codes: Codes, int64 [K, frames].

        Returns:
            Samples, float32 [T], at `sampling_rate_hz`.

        Raises:
            UserError: The codec cannot be loaded, or has no weights of the decoder.
        """
        if self._model is None:
            self._model = self._load(part="decoder")
        with torch.inference_mode():
            codes_1KF = torch.from_numpy(np.ascontiguousarray(codes))[None].to(self._device)
            values = self._model.decode(audio_codes=codes_1KF).audio_values
        samples: Waveform = values.flatten().cpu().numpy().astype(np.float32)
        return samples

    def _load(self, part: str = "encoder") -> Any:
        model_class = _dac_class() if self._kind == "dac" else _higgs_class(self.name)
        try:
            model, info = model_class.from_pretrained(self._folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            raise UserError(f"--audio_tokenizer {self.name}: the codec cannot be loaded: {error}") from error
        other = "decoder" if part == "encoder" else "encoder"
        missing = sorted(key for key in info["missing_keys"] if other not in key)
        if missing:  # transformers would use random weights
            raise UserError(
                f"--audio_tokenizer {self.name}: expected weights for {', '.join(missing[:3])}, got none. "
                "The folder is incomplete. Download the codec again."
            )
        return model.eval().to(self._device)


def _dac_class() -> Any:
    from transformers import DacModel

    return DacModel


def _higgs_class(name: str) -> Any:
    if importlib.util.find_spec("torchaudio") is None:
        raise UserError(_no_torchaudio(name, "none installed"))
    try:
        from transformers import HiggsAudioV2TokenizerModel
    except (ImportError, OSError, RuntimeError) as error:  # a torchaudio for another version of torch
        raise UserError(_no_torchaudio(name, f"a torchaudio that fails to import ({error})")) from error
    return HiggsAudioV2TokenizerModel


def _no_torchaudio(name: str, got: str) -> str:
    return (
        f"--audio_tokenizer {name}: expected torchaudio, which the Higgs codec needs, got {got}. Install "
        "the torchaudio for your torch. Or encode on a machine with torchaudio (higgs-audio-trainer prepare "
        '--codes_dir DIR) and train here with that --codes_dir. Or give encoded files in the manifest ("codes": path).'
    )


def _local_folder(name_or_path: str) -> Path:
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name_or_path, allow_patterns=list(_WANTED)))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"--audio_tokenizer: expected a folder or a name on the Hugging Face Hub, got {name_or_path!r}, which "
            f"does not exist or cannot be downloaded ({type(error).__name__}). Check the path and the network."
        ) from error


def _read_config(folder: Path, name: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise UserError(
            f"--audio_tokenizer {name}: expected a codec in transformers' layout, got a folder whose config.json is "
            "missing or unknown. Convert a codec in Boson's original layout first."
        ) from error
    if config.model_type not in ("dac", "higgs_audio_v2_tokenizer"):
        raise UserError(
            f"--audio_tokenizer {name}: expected model_type higgs_audio_v2_tokenizer or dac, got {config.model_type!r}."
        )
    return config


def _fingerprint(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for pattern in _HASHED for path in folder.glob(pattern)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
