"""Waveforms from audio files of any rate, number of channels and format known to libsndfile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from higgs_audio_trainer.data import container
from higgs_audio_trainer.data.channels import Mix, mix

Waveform = npt.NDArray[np.float32]

_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's length of a FLAC file that was written to a pipe


class AudioError(Exception):
    """A clip is unusable.

    Attributes:
        expected: Expectation, as in the message of a problem.
        got: Observation, as in the message of a problem.

    Example:
        >>> str(AudioError("finite samples", "NaN or infinity"))
        'expected finite samples, got NaN or infinity'
    """

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got = expected, got


class AudioInfo(NamedTuple):
    """Size of a file, or of a stretch of the file.

    Attributes:
        length: Number of samples of each channel.
        rate: Sampling rate, Hz.
        channels: Number of channels.
    """

    length: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.length / self.rate


def audio_info(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> AudioInfo:
    """Read the size of a file, or of a stretch of the file, from the file's header.

    Args:
        path: Audio file.
        offset_s: Start of the stretch, seconds.
        duration_s: Length of the stretch, seconds. None for the rest of the file.

    Raises:
        AudioError: The file is no readable audio, was cut off, has no length in its header, or the stretch is empty.
    """
    with _opened(path) as file:
        return AudioInfo(_stretch(file, offset_s, duration_s)[1], file.samplerate, file.channels)


def load_audio(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> tuple[Mix, int]:
    """Read a file, or a stretch of the file, as one channel.

    Args:
        path: Audio file.
        offset_s: Start of the stretch, seconds.
        duration_s: Length of the stretch, seconds. None for the rest of the file.

    Returns:
        Samples in -1..1 unless the file holds floats outside of this range, and the sampling rate in Hz.

    Raises:
        AudioError: The file is no readable audio, is shorter than its header says, is empty, or holds NaN or infinity.
    """
    with _opened(path) as file:
        start, wanted = _stretch(file, offset_s, duration_s)
        file.seek(start)
        frames_TC = file.read(wanted, dtype="float32", always_2d=True)
        rate: int = file.samplerate
    if len(frames_TC) < wanted:
        raise AudioError(f"{wanted} samples, as its header says", f"{len(frames_TC)}: the file may be cut off")
    if not np.isfinite(frames_TC).all():
        raise AudioError("finite samples", "NaN or infinity")
    return mix(frames_TC, rate), rate


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        status = path.stat()
        if fault := _fault(path, (status.st_size, status.st_mtime_ns)):
            raise AudioError(*fault)
        source = container.readable(path)
        # soundfile would encode the name without the escapes of a name in another encoding.
        with soundfile.SoundFile(os.fsencode(source) if isinstance(source, Path) else source) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise AudioError(
            "audio that libsndfile reads", error.error_string.removeprefix("Error : ").rstrip(".")
        ) from error
    except (OSError, TypeError, ValueError) as error:  # TypeError: a .raw file has no rate and no type
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise AudioError("audio that libsndfile reads", reason) from error


@lru_cache(maxsize=1_024)  # many clips may be stretches of a single long recording
def _fault(path: Path, version: tuple[int, int]) -> container.Fault | None:  # noqa: ARG001 - the cache's key
    return container.fault_of(path)


def _stretch(file: soundfile.SoundFile, offset_s: float, duration_s: float | None) -> tuple[int, int]:
    """Return the first sample and the number of samples of a stretch."""
    if file.frames >= _UNKNOWN_LENGTH:
        raise AudioError("a file with its length in the header", "an unknown length: encode the audio again, to a file")
    start = round(min(offset_s * file.samplerate, file.frames))
    rest = file.frames - start
    wanted = rest if duration_s is None else round(min(duration_s * file.samplerate, rest))
    if wanted == 0:
        raise AudioError("at least one sample of audio", "an empty clip")
    return start, wanted


def resample(waveform: Waveform, rate: int, to_rate: int) -> Waveform:
    """Return a waveform at another sampling rate, resampled with soxr at high quality.

    Args:
        waveform: Samples, float32 [T].
        rate: Sampling rate of the waveform, Hz.
        to_rate: Sampling rate of the result, Hz.

    Returns:
        Samples, float32, at least floor(T * to_rate / rate).

    Example:
        >>> len(resample(np.zeros(8_000, dtype=np.float32), 8_000, 24_000))
        24000
    """
    if rate == to_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, rate, to_rate), dtype=np.float32)
