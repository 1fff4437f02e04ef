"""Codes on disk, read with checks."""

from __future__ import annotations

import math
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from higgs_audio_trainer.bounds import MAX_CODES, MAX_CODES_HEADER_BYTES
from higgs_audio_trainer.data.audio import AudioError

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
            _check_header(path, slice(0, 8))
            return _read_safetensors(path)
        if path.suffix == ".npy":
            _check_header(path, slice(8, 12))
            # A memory map, because a damaged header may claim more than fits into memory. Not np.load(), which opens
            # a zip or a pickle of this name. numpy resolves a Path, which takes a third of the time.
            array: npt.NDArray[Any] = np.lib.format.open_memmap(str(path), mode="r")
            _check_shape(array.shape)
            return array
    except _UNREADABLE as error:
        raise AudioError("readable codes", " ".join(str(error).split()) or type(error).__name__) from error
    raise AudioError("codes in a .npy or .safetensors file", repr(path.name))


def _check_header(path: Path, place: slice) -> None:
    """Check the length of a header before a library reads the header into memory.

    Args:
        path: File of codes.
        place: Place of the length, little-endian. In version 1 of `.npy` the length has two bytes, and text follows.

    Raises:
        AudioError: The header is too long.
    """
    with path.open("rb") as file:
        start = file.read(place.stop)
    is_short = start[6:7] == b"\1" and place.start > 0
    length = int.from_bytes(start[place][: 2 if is_short else None], "little")
    if MAX_CODES_HEADER_BYTES < length <= path.stat().st_size:  # a library reports a longer one without reading
        raise AudioError(f"a header of at most {MAX_CODES_HEADER_BYTES:,} bytes", f"one of {length:,} bytes")


def _check_shape(shape: tuple[int, ...]) -> None:
    """Check the size of an array before its values are read.

    Raises:
        AudioError: The array has too many codes.
    """
    if math.prod(shape) > MAX_CODES:
        raise AudioError(f"at most {MAX_CODES:,} codes", f"shape {list(shape)}")


def _read_safetensors(path: Path) -> npt.NDArray[Any]:
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        chosen = names if len(names) == 1 else [name for name in _TENSOR_NAMES if name in names]
        if not chosen:
            raise AudioError("one tensor, or one named codes", f"tensors named {names}")
        _check_shape(tuple(file.get_slice(chosen[0]).get_shape()))
        tensor: npt.NDArray[Any] = file.get_tensor(chosen[0])
        return tensor
