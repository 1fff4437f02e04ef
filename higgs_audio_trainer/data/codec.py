"""Codec between waveforms and codes, loaded by transformers from a name or a folder."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from higgs_audio_trainer.data.audio import Waveform
from higgs_audio_trainer.data.higgs_codec import higgs_codec_class
from higgs_audio_trainer.errors import UserError, of_library, one_line
from higgs_audio_trainer.hub import hub_error, is_folder, reach
from higgs_audio_trainer.phases import phase
from higgs_audio_trainer.third_party_imports import prepare_imports

_WANTED = ("*.json", "*.safetensors")
_HASHED = (*_WANTED, "*.bin")  # a folder may hold weights in the older format


class Codec:
    """Encodes clips to codes, and decodes codes to clips.

    The weights are loaded at the first clip. A run with all clips in the cache never loads the weights. Clips are
    encoded one by one and never padded, because the Higgs codec has no mask: padding a clip changes nearly all its
    codes.

    Args:
        name_or_path: Folder, or name on the Hugging Face Hub.
        device: Device of the computation.
        num_codebooks: Number of codebooks K of the model. None for the codec's default.

    Attributes:
        folder: Folder of the weights.
        sampling_rate_hz: Sampling rate of the codec's audio.
        hop_length: Number of samples of a frame.
        fingerprint: Hash of the codec's configuration and weights.

    Raises:
        UserError: The codec does not exist, is not supported, or has fewer codebooks than the model.
    """

    def __init__(self, name_or_path: str, *, device: str = "cpu", num_codebooks: int | None = None) -> None:
        self.name = name_or_path
        self.folder = _local_folder(name_or_path)
        self._device = device
        self._model: Any = None
        self._missing: list[str] = []
        config = _read_config(self.folder, name_or_path)
        self._kind = config.model_type
        self.sampling_rate_hz = int(config.sampling_rate if self._kind == "dac" else config.sample_rate)
        self.hop_length = int(config.hop_length)
        self._num_codebooks, self._quantizers = _quantizers(config, num_codebooks, name_or_path)
        is_default = self._num_codebooks == _quantizers(config, None, name_or_path)[0]
        self.fingerprint = _fingerprint(self.folder, "" if is_default else f"{self._num_codebooks} codebooks")

    def encode(self, waveform: Waveform) -> npt.NDArray[np.int64]:
        """Return the codes of a clip.

        Args:
            waveform: Samples, float32 [T], at `sampling_rate_hz`, at least one frame.

        Returns:
            Codes, int64 [K, frames].

        Raises:
            UserError: The codec cannot be loaded, or the device has too little memory.
        """
        model = self._model_with("encoder")
        try:
            with torch.inference_mode():
                samples_1CT = torch.from_numpy(np.ascontiguousarray(waveform))[None, None].to(self._device)
                codes_1KF = model.encode(samples_1CT, **self._quantizers).audio_codes
            codes: npt.NDArray[np.int64] = codes_1KF[0, : self._num_codebooks].cpu().numpy().astype(np.int64)
        except torch.OutOfMemoryError as error:
            raise self._no_memory() from error
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
        model = self._model_with("decoder")
        with torch.inference_mode():
            codes_1KF = torch.from_numpy(np.ascontiguousarray(codes))[None].to(self._device)
            values = model.decode(audio_codes=codes_1KF).audio_values
        samples: Waveform = values.flatten().cpu().numpy().astype(np.float32)
        return samples

    def _model_with(self, part: str) -> Any:
        """Return the model. Raise if weights of the part, encoder or decoder, are missing."""
        if self._model is None:
            self._model, self._missing = self._load()
        other = "decoder" if part == "encoder" else "encoder"
        if missing := [key for key in self._missing if other not in key]:  # transformers took random weights
            raise UserError(
                f"--audio_tokenizer {self.name}: expected weights for {', '.join(missing[:3])}, got none. "
                "The folder is incomplete. Download the codec again."
            )
        return self._model

    def _load(self) -> tuple[Any, list[str]]:
        """Return the model and the names of missing weights."""
        try:
            with phase("loading the codec"):
                model, info = self._class().from_pretrained(self.folder, dtype=torch.float32, output_loading_info=True)
        except Exception as error:  # libraries raise any class for a damaged file
            raise UserError(
                f"--audio_tokenizer {self.name}: the codec cannot be loaded: {of_library(error)}"
            ) from error
        try:
            return model.eval().to(self._device), sorted(info["missing_keys"])
        except torch.OutOfMemoryError as error:
            raise self._no_memory() from error
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise UserError(f"--device {self._device}: cannot be used: {reason}. Name another device.") from error

    def _no_memory(self) -> UserError:
        return UserError(
            f"--audio_tokenizer {self.name}: {self._device} has no memory left. Start fewer processes (--workers), "
            "leave out long clips (--max_seconds), or name another device (--device)."
        )

    def _class(self) -> Any:
        if self._kind != "dac":
            return higgs_codec_class()
        from transformers import DacModel

        return DacModel


def _local_folder(name_or_path: str) -> Path:
    if is_folder(name_or_path):
        return Path(name_or_path)
    reach(name_or_path, "--audio_tokenizer")
    from huggingface_hub import snapshot_download

    try:
        with phase(f"downloading the codec {name_or_path}"):
            return Path(snapshot_download(name_or_path, allow_patterns=list(_WANTED)))
    except (OSError, ValueError) as error:
        raise hub_error(error, "--audio_tokenizer", name_or_path) or UserError(
            f"--audio_tokenizer {name_or_path}: the download failed: {one_line(error)}. Try again, or name a folder."
        ) from error


def _read_config(folder: Path, name: str) -> Any:
    prepare_imports()
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # libraries raise any class for a damaged file
        got = of_library(error) if (folder / "config.json").exists() else f"no config.json in {folder}"
        raise UserError(
            f"--audio_tokenizer {name}: expected a codec in transformers' layout, got: {got}. Convert a codec in "
            "Boson's original layout first."
        ) from error
    if config.model_type not in ("dac", "higgs_audio_v2_tokenizer"):
        raise UserError(
            f"--audio_tokenizer {name}: expected model_type higgs_audio_v2_tokenizer or dac, got {config.model_type!r}."
        )
    return config


def _quantizers(config: Any, wanted: int | None, name: str) -> tuple[int, dict[str, Any]]:
    """Return the number of codebooks, and the argument of the model's `encode` that gives at least as many.

    A DAC takes the number. The Higgs codec takes one of a few bandwidths. The codes of a residual quantizer do not
    depend on later codebooks, so codebooks may be left out at the end.
    """
    settings: list[tuple[int, dict[str, Any]]]
    if config.model_type == "dac":
        settings = [(config.n_codebooks, {"n_quantizers": wanted})]
    else:
        kbps = math.log2(config.codebook_size) * config.frame_rate / 1000  # of a codebook, as the model counts
        settings = [
            (min(max(1, math.floor(bandwidth / kbps)), config.num_quantizers), {"bandwidth": bandwidth})
            for bandwidth in config.target_bandwidths
        ]
    if wanted is None and settings:
        return settings[-1]
    enough = [setting for setting in settings if setting[0] >= (wanted or 1)]
    if not enough:
        most = max((count for count, _ in settings), default=0)
        raise UserError(
            f"--audio_tokenizer {name}: expected at least {wanted or 1} codebooks, as in the model, got {most}. Use "
            "the codec of --base_ckpt."
        )
    count, setting = min(enough, key=lambda item: item[0])
    return wanted or count, setting


def _fingerprint(folder: Path, settings: str) -> str:
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    with phase("hashing the codec") as hashing:
        for path in sorted(path for pattern in _HASHED for path in folder.glob(pattern)):
            hashing.detail = f"{path.name}, {path.stat().st_size / 1e9:.1f} GB"
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
