"""Codes on disk: reading them with every check, and the cache that holds what the codec has encoded."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import UserError

_TENSOR_NAMES = ("codes", "audio_codes")
# numpy parses a header as Python: a damaged one fails in any of the ways that Python code can.
_UNREADABLE = (OSError, ValueError, TypeError, EOFError, OverflowError, SyntaxError, TokenError, SafetensorError)


def load_codes(path: Path, *, num_codebooks: int, num_codes: int) -> npt.NDArray[np.int64]:
    """Read pre-encoded codes.

    Args:
        path: a `.npy` file, or a `.safetensors` file with one tensor, or one named `codes` or `audio_codes`.
        num_codebooks: K that the model has.
        num_codes: codes of a codebook; stream BOS and EOS lie above them.

    Returns:
        int64 [K, T].

    Raises:
        AudioError: the file is not readable, or its array has the wrong type, shape or range.
    """
    array = _read_array(path)
    if array.dtype.kind not in "iu":
        raise AudioError("an array of integers", f"{array.dtype} {list(array.shape)}")
    if array.ndim != 2 or array.shape[0] != num_codebooks or array.shape[1] == 0:  # noqa: PLR2004 - [K, T]
        raise AudioError(f"codes of shape [{num_codebooks}, frames]", f"shape {list(array.shape)}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= num_codes:
        raise AudioError(f"codes from 0 to {num_codes - 1}", f"{low} to {high}")
    return np.array(array, dtype=np.int64)


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix == ".npy":
            # Mapped, for a damaged header may claim more than fits into memory; and not np.load(), which would open
            # a zip or a pickle of that name.
            return np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise AudioError("readable codes", " ".join(str(error).split()) or type(error).__name__) from error
    raise AudioError("codes in a .npy or .safetensors file", repr(path.name))


def _read_safetensors(path: Path) -> npt.NDArray[Any]:
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        chosen = names if len(names) == 1 else [name for name in _TENSOR_NAMES if name in names]
        if not chosen:
            raise AudioError("one tensor, or one named codes", f"tensors named {names}")
        tensor: npt.NDArray[Any] = file.get_tensor(chosen[0])
        return tensor


class CodeCache:
    """Codes that were encoded before, found again by what was encoded and by which codec.

    A file is written beside its place and moved there whole, so that a killed run leaves nothing that is taken
    for an encoded clip.

    Args:
        root: folder of the cache.
        codec_fingerprint: identifies the codec's configuration and weights.
    """

    def __init__(self, root: Path, codec_fingerprint: str) -> None:
        self.folder = root / codec_fingerprint
        self._digests: dict[Path, bytes] = {}  # many clips may be stretches of one long recording

    def path(self, clip: Clip) -> Path:
        """Where the codes of a clip are, or will be. Reads the clip's file, for its content is the key.

        Raises:
            AudioError: the clip's file cannot be read.
        """
        if clip.path not in self._digests:
            self._digests[clip.path] = _digest(clip.path)
        stretch = f"{clip.offset_s!r}:{clip.duration_s!r}".encode()
        key = hashlib.blake2b(self._digests[clip.path] + stretch, digest_size=16).hexdigest()
        return self.folder / key[:2] / f"{key}.npy"

    @staticmethod
    def store(path: Path, codes_KT: npt.NDArray[np.integer]) -> None:
        """Write the codes of a clip, integers [K, T], at the place that `path` gave.

        Raises:
            UserError: the place cannot be written to.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, codes_KT.astype(np.int32))
        except OSError as error:
            raise UserError(
                f"--codes_dir: expected a folder to store codes in, got {error.strerror} at {path.parent}. "
                "Name another one, or make room."
            ) from error


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:
        raise AudioError("a readable file", str(error.strerror)) from error


def _write_whole(path: Path, array: npt.NDArray[np.int32]) -> None:
    temporary = path.parent / f".{uuid.uuid4().hex}.encoding"
    try:
        with temporary.open("xb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there only if something failed
