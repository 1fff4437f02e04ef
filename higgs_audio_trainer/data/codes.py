"""Codes on disk: reading them with every check, and the cache that holds what the codec has encoded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.manifest import Clip

_BLOCK_BYTES = 1 << 20


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
    if not np.issubdtype(array.dtype, np.integer):
        raise AudioError("an array of integers", f"{array.dtype} {list(array.shape)}")
    if array.ndim != 2 or array.shape[0] != num_codebooks or array.shape[1] == 0:  # noqa: PLR2004 - [K, T]
        raise AudioError(f"codes of shape [{num_codebooks}, frames]", f"shape {list(array.shape)}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= num_codes:
        raise AudioError(f"codes from 0 to {num_codes - 1}", f"{low} to {high}")
    return array.astype(np.int64)


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            names = [name for name in ("codes", "audio_codes") if name in tensors] or list(tensors)
            if len(tensors) == 0 or (len(names) > 1 and names == list(tensors)):
                raise AudioError("one tensor, or one named codes", f"tensors named {', '.join(tensors) or '(none)'}")
            return tensors[names[0]]
        if path.suffix == ".npy":
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
            return array
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise AudioError("readable codes", str(error)) from error
    raise AudioError("codes in a .npy or .safetensors file", repr(path.name))


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

    def path(self, clip: Clip) -> Path:
        """Where the codes of a clip are, or will be. Reads the clip's file, for its content is the key."""
        digest = hashlib.blake2b(f"{clip.offset_s!r}:{clip.duration_s!r}:".encode(), digest_size=16)
        with clip.path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        key = digest.hexdigest()
        return self.folder / key[:2] / f"{key}.npy"

    @staticmethod
    def store(path: Path, codes_KT: npt.NDArray[np.integer]) -> None:
        """Write the codes of a clip, integers [K, T], at the place that `path` gave."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".encoding-", suffix=".npy")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.save(file, codes_KT.astype(np.int32))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
