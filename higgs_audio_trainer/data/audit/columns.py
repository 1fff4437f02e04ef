"""Columns of numbers about all clips of the audited samples, about 110 bytes a sample."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.events import Split

SPLITS: tuple[Split, ...] = ("train", "eval")
_HASH_DIGITS = 16  # of a hash in a column, 64 bits
_HASH_MASK = 2**64 - 1
_END = "\x1e"  # after each name


def hash_number(digits: str | None) -> int:
    """Return the first 64 bits of a hash as a number; 0 without a hash.

    Example:
        >>> hash_number("0000000000000010ffff"), hash_number(None)
        (16, 0)
    """
    return int(digits[:_HASH_DIGITS], 16) if digits else 0


def text_number(text: str) -> int:
    """Return a number for a text. Case and repeated spaces do not count.

    Example:
        >>> text_number("Good  Morning") == text_number("good morning") != text_number("good evening")
        True
    """
    folded = text.casefold()
    return hash(" ".join(folded.split()) if "  " in folded else folded) & _HASH_MASK or 1


class SampleNames:
    """Places and ids of samples, in a single piece of memory."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._ends)

    def add(self, names: Iterable[tuple[str, str]]) -> None:
        """Add places and ids of the next samples."""
        joined = "".join(f"{where}\0{sample_id.replace(_END, '')}{_END}" for where, sample_id in names)
        start = len(self._bytes)
        self._bytes += joined.encode("utf-8", "surrogatepass")
        added = np.frombuffer(memoryview(self._bytes)[start:].tobytes(), dtype=np.uint8)
        self._ends.frombytes((np.flatnonzero(added == ord(_END)) + start).tobytes())

    def __getitem__(self, number: int) -> tuple[str, str]:
        """Return place and id of a sample."""
        start = self._ends[number - 1] + 1 if number else 0
        where, _, sample_id = self._bytes[start : self._ends[number]].decode("utf-8", "surrogatepass").partition("\0")
        return where, sample_id


class ClipColumns(NamedTuple):
    """Numbers about N clips. Hashes are 64 bits, and 0 if unknown.

    Attributes:
        sample: Number of the clip's sample, uint32 [N].
        is_reference: True for a clip that is no training target, bool [N].
        audio: Hash of the decoded audio, uint64 [N].
        codes: Hash of the codes, uint64 [N].
        text: Hash of the text, uint64 [N].
        seconds: Length, float32 [N]; NaN if unknown.
        speech_s: Length without the silence at the ends, float32 [N]; NaN if unknown.
        length: Number of letters to read in the text, uint32 [N].
        script: Number of the script of the text, uint8 [N].
        rate: Sampling rate, Hz; 0 if unknown, uint32 [N].
        file: Hash of the name of the audio file, uint64 [N].
        start_s: Start in the audio file, float32 [N].
    """

    sample: npt.NDArray[np.uint32]
    is_reference: npt.NDArray[np.bool_]
    audio: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.uint64]
    text: npt.NDArray[np.uint64]
    seconds: npt.NDArray[np.float32]
    speech_s: npt.NDArray[np.float32]
    length: npt.NDArray[np.uint32]
    script: npt.NDArray[np.uint8]
    rate: npt.NDArray[np.uint32]
    file: npt.NDArray[np.uint64]
    start_s: npt.NDArray[np.float32]


_TYPES = (
    np.uint32, np.bool_, np.uint64, np.uint64, np.uint64, np.float32, np.float32, np.uint32, np.uint8, np.uint32,
    np.uint64, np.float32,
)  # fmt: skip


class ColumnsBuilder:
    """Collects columns batch by batch."""

    def __init__(self) -> None:
        self._bytes = [bytearray() for _ in _TYPES]

    def add(self, columns: Sequence[Sequence[object] | npt.NDArray[np.generic]]) -> None:
        """Add the columns of a batch, in the order of `ClipColumns`."""
        for collected, values, kind in zip(self._bytes, columns, _TYPES, strict=True):
            collected.extend(np.asarray(values, dtype=kind).tobytes())

    def columns(self) -> ClipColumns:
        """Return the columns of all batches."""
        return ClipColumns(*(np.frombuffer(data, dtype=kind) for data, kind in zip(self._bytes, _TYPES, strict=True)))
