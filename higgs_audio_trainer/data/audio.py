"""Waveforms from audio files of any rate, number of channels and format known to libsndfile, torchcodec or ffmpeg."""

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
from higgs_audio_trainer.data.media_file import MediaError, MediaFile, media_kind

Waveform = npt.NDArray[np.float32]

_LOST_SYNC = "lost sync"  # what libsndfile says of a FLAC file that ends within a frame
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
    frames_TC, rate = load_frames(path, offset_s=offset_s, duration_s=duration_s)
    return mix(frames_TC, rate), rate


def load_frames(
    path: Path, *, offset_s: float = 0.0, duration_s: float | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """Read a file, or a stretch of the file. See `load_audio`.

    Returns:
        Samples of all channels, float32 [T, C], and the sampling rate in Hz.
    """
    with _opened(path) as file:
        start, wanted = _stretch(file, offset_s, duration_s)
        file.seek(start)
        frames_TC = file.read(wanted, dtype="float32", always_2d=True)
        rate: int = file.samplerate
    if len(frames_TC) < wanted:
        raise AudioError(f"{wanted} samples, as its header says", f"{len(frames_TC)}: {container.CUT_OFF}")
    if not np.isfinite(frames_TC).all():
        raise AudioError("finite samples", "NaN or infinity")
    return frames_TC, rate


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile | MediaFile]:
    try:
        status = os.stat(path)  # noqa: PTH116 - three times as fast as Path.stat()
        kind, header = _header(path, (status.st_size, status.st_mtime_ns))
        if kind is not None:
            yield MediaFile(path, kind)
            return
        if header.fault:
            raise AudioError(*header.fault)
        # soundfile would encode the name without the escapes of a name in another encoding.
        source = os.fsencode(path) if header.size_at is None else container.with_length(path, header.size_at)
        with soundfile.SoundFile(source) as file:
            yield file
    except MediaError as error:
        raise AudioError(*error.fault) from error
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        more = f": {container.CUT_OFF}" if _LOST_SYNC in reason else ""
        raise AudioError("audio that libsndfile reads", f"{reason}{more}") from error
    except (OSError, TypeError, ValueError) as error:  # TypeError: a .raw file has no rate and no type
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise AudioError("audio that libsndfile reads", reason) from error


@lru_cache(maxsize=1_024)  # many clips may be stretches of a single long recording
def _header(path: Path, version: tuple[int, int]) -> tuple[str | None, container.Header]:  # noqa: ARG001 - the cache's key
    """Return the name of a format that libsndfile does not read, or the header of any other file."""
    with path.open("rb") as file:
        kind = media_kind(file)
        return kind, container.read_header(file) if kind is None else container.Header()


def _stretch(file: soundfile.SoundFile | MediaFile, offset_s: float, duration_s: float | None) -> tuple[int, int]:
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

    soxr rounds the number of samples. The result has the length that transformers' `load_audio` and librosa give, since
    a sample more or less changes codes of the Higgs codec.

    Args:
        waveform: Samples, float32 [T].
        rate: Sampling rate of the waveform, Hz.
        to_rate: Sampling rate of the result, Hz.

    Returns:
        Samples, float32 [ceil(T * to_rate / rate)]. The last sample is zero where soxr gives one less.

    Example:
        >>> len(resample(np.zeros(44_101, dtype=np.float32), 44_100, 24_000))
        24001
    """
    if rate == to_rate:
        return waveform
    length = -(-len(waveform) * to_rate // rate)
    resampled = np.asarray(soxr.resample(waveform, rate, to_rate), dtype=np.float32)[:length]
    return np.pad(resampled, (0, length - len(resampled)))
