"""Audio files to waveforms: any format that libsndfile reads, any rate, any number of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Waveform = npt.NDArray[np.float32]


class AudioError(Exception):
    """A clip cannot be used. `expected` and `got` are the halves of a fault."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got = expected, got


def load_audio(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> tuple[Waveform, int]:
    """Read a file, or a stretch of it, as mono.

    Channels are averaged.

    Returns:
        Samples, float32 [T] in -1..1, and their rate in Hz.

    Raises:
        AudioError: the file is not readable audio, is shorter than it says, is empty, or holds no finite numbers.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            start = min(round(offset_s * rate), file.frames)
            wanted = file.frames - start if duration_s is None else min(round(duration_s * rate), file.frames - start)
            file.seek(start)
            frames = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, ValueError, RuntimeError) as error:
        raise AudioError("audio that libsndfile reads", str(error).rstrip(".")) from error
    if len(frames) < wanted:
        raise AudioError(f"{wanted} samples, as its header says", f"{len(frames)}; the file may be cut off")
    if not len(frames):
        raise AudioError("at least one sample of audio", "an empty clip")
    mono = frames.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError("finite samples", "NaN or infinity")
    return mono, rate


def resample(waveform: Waveform, rate: int, to_rate: int) -> Waveform:
    """Resample with soxr at its high quality.

    Args:
        waveform: float32 [T].
        rate: its rate in Hz.
        to_rate: the rate wanted, in Hz.
    """
    if rate == to_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, rate, to_rate), dtype=np.float32)
