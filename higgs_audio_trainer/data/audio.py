"""Waveforms from audio files of any rate, number of channels and format known to libsndfile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

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


def audio_length(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> tuple[int, int]:
    """Read the length of a file, or of a stretch of the file, from the file's header.

    Args:
        path: Audio file.
        offset_s: Start of the stretch, seconds.
        duration_s: Length of the stretch, seconds. None for the rest of the file.

    Returns:
        Number of samples of each channel, and the sampling rate in Hz.

    Raises:
        AudioError: The file is no readable audio, has no length in its header, or the stretch is empty.
    """
    with _opened(path) as file:
        return _stretch(file, offset_s, duration_s)[1], file.samplerate


def load_audio(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> tuple[Waveform, int]:
    """Read a file, or a stretch of the file, as the mean of its channels.

    Args:
        path: Audio file.
        offset_s: Start of the stretch, seconds.
        duration_s: Length of the stretch, seconds. None for the rest of the file.

    Returns:
        Samples, float32 [T], in -1..1 unless the file holds floats outside of this range, and the sampling rate in Hz.

    Raises:
        AudioError: The file is no readable audio, is shorter than its header says, is empty, or holds NaN or infinity.
    """
    with _opened(path) as file:
        start, wanted = _stretch(file, offset_s, duration_s)
        file.seek(start)
        frames = file.read(wanted, dtype="float32", always_2d=True)
        rate: int = file.samplerate
    if len(frames) < wanted:
        raise AudioError(f"{wanted} samples, as its header says", f"{len(frames)}: the file may be cut off")
    if not np.isfinite(frames).all():
        raise AudioError("finite samples", "NaN or infinity")
    return frames.mean(axis=1), rate


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise AudioError(
            "audio that libsndfile reads", error.error_string.removeprefix("Error : ").rstrip(".")
        ) from error
    except (OSError, TypeError, ValueError) as error:  # TypeError: a .raw file has no rate and no type
        raise AudioError("audio that libsndfile reads", str(error).rstrip(".")) from error


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
