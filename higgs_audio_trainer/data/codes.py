"""Codes on disk: reading with checks, and the cache of encoded clips."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import UserError

_TENSOR_NAMES = ("codes", "audio_codes")
# numpy parses a header as Python, so a damaged header fails like any Python code.
_UNREADABLE = (OSError, ValueError, TypeError, EOFError, OverflowError, SyntaxError, TokenError, SafetensorError)


def load_codes(path: Path, *, num_codebooks: int, num_codes: int) -> npt.NDArray[np.int64]:
    """Read pre-encoded codes.

    Args:
        path: A `.npy` file, or a `.safetensors` file with a single tensor or a tensor named `codes` or `audio_codes`.
        num_codebooks: Number of codebooks K of the model.
        num_codes: Number of codes of a codebook, without stream BOS and EOS.

    Returns:
        Codes, int64 [K, T].

    Raises:
        AudioError: The file is not readable, or the array has the wrong type, shape or range.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "codes.npy"
        ...     np.save(path, np.array([[5, 6, 7], [8, 9, 10]]))
        ...     load_codes(path, num_codebooks=2, num_codes=1024).tolist()
        [[5, 6, 7], [8, 9, 10]]
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
            # A memory map, because a damaged header may claim more than fits into memory. Not np.load(), which opens
            # a zip or a pickle of this name.
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
    """Cache of codes by the content of the clip and the fingerprint of the codec.

    Each file appears complete or not at all, so a killed run leaves no damaged codes.

    Args:
        root: Folder of the cache.
        codec_fingerprint: Hash of the codec's configuration and weights.
    """

    def __init__(self, root: Path, codec_fingerprint: str) -> None:
        self.folder = root / codec_fingerprint
        self._digests: dict[Path, bytes] = {}  # many clips may be stretches of a single long recording

    def path(self, clip: Clip, *, channels: int = 1) -> Path:
        """Return the file for a clip's codes, which may not exist yet.

        The key is the content of the clip's file, so the file is read.

        Args:
            clip: The clip.
            channels: Number of channels in the clip's file.

        Raises:
            AudioError: The clip's file cannot be read.
        """
        if clip.path not in self._digests:
            self._digests[clip.path] = _digest(clip.path)
        stretch = f"{clip.offset_s!r}:{clip.duration_s!r}".encode()
        if channels > 1:  # earlier versions took the mean of channels that cancel each other out
            stretch += b":mix"
        key = hashlib.blake2b(self._digests[clip.path] + stretch, digest_size=16).hexdigest()
        return self.folder / key[:2] / f"{key}.npy"

    @staticmethod
    def store(path: Path, codes_KT: npt.NDArray[np.integer]) -> None:
        """Write the codes of a clip.

        Args:
            path: File from `CodeCache.path`.
            codes_KT: Codes, integers [K, T].

        Raises:
            UserError: The file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, sync=True) as file:
                np.save(file, codes_KT.astype(np.int32))
        except OSError as error:
            raise UserError(
                f"--codes_dir: {path.parent}: {error.strerror}. Name another folder, or free space."
            ) from error


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:
        raise AudioError("a readable file", str(error.strerror)) from error
