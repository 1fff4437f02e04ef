"""The codec: waveforms to codes and back. Loaded by transformers from a name or a folder."""

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
_HASHED = (*_WANTED, "*.bin")  # weights in the older format load too, from a folder


class Codec:
    """Encodes clips to codes, and decodes codes.

    Attributes:
        sampling_rate_hz: rate that the codec hears.
        hop_length: samples of one frame.
        fingerprint: hash of the codec's configuration and weights.

    The weights are loaded at the first clip: a run whose clips are all in the cache never needs them.

    Args:
        name_or_path: a folder, or a name on the Hugging Face Hub.
        device: where to encode.

    Raises:
        UserError: there is no such codec, or it is none that can be used.
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
        """Encode one clip.

        Args:
            waveform: float32 [T] at `sampling_rate_hz`, at least one frame.

        Returns:
            int64 [K, frames].

        Raises:
            UserError: the codec cannot be loaded.
        """
        if self._model is None:
            self._model = self._load()
        with torch.inference_mode():
            samples_1CT = torch.from_numpy(np.ascontiguousarray(waveform))[None, None].to(self._device)
            codes_1KF = self._model.encode(samples_1CT).audio_codes
        codes: npt.NDArray[np.int64] = codes_1KF[0].cpu().numpy().astype(np.int64)
        return codes

    def decode(self, codes: npt.NDArray[np.int64]) -> Waveform:
        """Decode one clip.

        Args:
            codes: int64 [K, frames].

        Returns:
            float32 [T] at `sampling_rate_hz`.

        Raises:
            UserError: the codec cannot be loaded, or has no weights to decode with.
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
        if missing:  # transformers would go on with random ones
            raise UserError(
                f"--audio_tokenizer {self.name}: expected weights for {', '.join(missing[:3])}, got none. "
                "The folder is not whole."
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
    except (ImportError, OSError, RuntimeError) as error:  # a torchaudio that does not fit this torch
        raise UserError(_no_torchaudio(name, f"one that does not load ({error})")) from error
    return HiggsAudioV2TokenizerModel


def _no_torchaudio(name: str, got: str) -> str:
    return (
        f"--audio_tokenizer {name}: expected torchaudio, which the Higgs codec needs, got {got}. Ways out: install the "
        "torchaudio that belongs to your torch; or encode on a machine that has it (higgs-audio-trainer prepare "
        "--codes_dir DIR) and train here with the same --codes_dir; or name encoded files in the manifest "
        '("codes": path).'
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
            f"--audio_tokenizer: expected a folder or a name on the Hugging Face Hub, got {name_or_path!r}, which is "
            f"not there or cannot be fetched ({type(error).__name__}). Check the path, or the network."
        ) from error


def _read_config(folder: Path, name: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise UserError(
            f"--audio_tokenizer {name}: expected a codec in transformers' layout, got a folder whose config.json is "
            "missing or not known. A codec in Boson's original layout must be converted first."
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
