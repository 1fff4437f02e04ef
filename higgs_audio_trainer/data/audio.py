"""Audio files to waveforms: any format that libsndfile reads, any rate, any number of channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Waveform = npt.NDArray[np.float32]

_UNKNOWN_LENGTH = 2**63 - 1  # what libsndfile says of a FLAC that was written to a pipe


class AudioError(Exception):
    """A clip cannot be used. `expected` and `got` are the halves of a fault."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got = expected, got


def audio_length(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> tuple[int, int]:
    """Read how long a file is, or a stretch of it, from its header.

    Returns:
        Samples of each channel, and their rate in Hz.

    Raises:
        AudioError: the file is not readable audio, does not say how long it is, or the stretch is empty.
    """
    with _opened(path) as file:
        return _stretch(file, offset_s, duration_s)[1], file.samplerate


def load_audio(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> tuple[Waveform, int]:
    """Read a file, or a stretch of it, as mono.

    Channels are averaged.

    Returns:
        Samples, float32 [T], in -1..1 unless the file holds floats beyond; and their rate in Hz.

    Raises:
        AudioError: the file is not readable audio, is shorter than it says, is empty, or holds no finite numbers.
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
    except (OSError, TypeError, ValueError) as error:  # TypeError: a .raw file says neither its rate nor its type
        raise AudioError("audio that libsndfile reads", str(error).rstrip(".")) from error


def _stretch(file: soundfile.SoundFile, offset_s: float, duration_s: float | None) -> tuple[int, int]:
    """Return the first sample of a stretch and how many there are."""
    if file.frames >= _UNKNOWN_LENGTH:
        raise AudioError("a file that says how long it is", "an unknown length: encode it again, to a file")
    start = round(min(offset_s * file.samplerate, file.frames))
    rest = file.frames - start
    wanted = rest if duration_s is None else round(min(duration_s * file.samplerate, rest))
    if wanted == 0:
        raise AudioError("at least one sample of audio", "an empty clip")
    return start, wanted


def resample(waveform: Waveform, rate: int, to_rate: int) -> Waveform:
    """Resample with soxr at its high quality.

    Args:
        waveform: float32 [T].
        rate: its rate in Hz.
        to_rate: the rate wanted, in Hz.

    Returns:
        float32, at least floor(T * to_rate / rate) samples.
    """
    if rate == to_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, rate, to_rate), dtype=np.float32)
