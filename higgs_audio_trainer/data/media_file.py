"""Audio of MP4, WebM, AAC and other files that libsndfile does not read, by torchcodec or the program ffmpeg."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.container import CUT_OFF, Fault

_BEGINNINGS = {
    re.compile(rb"....ftyp", re.DOTALL): "MP4",  # also m4a and mov
    re.compile(rb"\x1aE\xdf\xa3"): "WebM or Matroska",
    re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"): "AAC",
    re.compile(rb"0&\xb2u\x8ef\xcf\x11"): "WMA",
    re.compile(rb"#!AMR"): "AMR",
    re.compile(rb"\x0bw"): "AC-3",
    re.compile(rb"wvpk"): "WavPack",
}
_EARLY_END = re.compile("moov atom not found|ended prematurely|partial file")  # in messages of ffmpeg
_LONGEST_BEGINNING = 8
_SMALL = 2 * 2**20  # bytes of a file whose samples are kept until the next file: minutes, and at most 200 MB decoded
_HEADER = struct.Struct(">6I")  # of the AU format: magic, start of the samples, size, encoding, rate, channels
_SAMPLES, _BYTES = ("pcm_f32be", ">f4"), ("pcm_mulaw", "u1")


class MediaError(Exception):
    """A file cannot be decoded.

    Attributes:
        fault: Expectation and observation.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(*fault)
        self.fault = fault


class _Decoded(NamedTuple):
    """Samples [T, C], and their rate in Hz."""

    frames_TC: npt.NDArray[Any]
    rate: int


class MediaFile:
    """Audio of a file, with the attributes and the methods of `soundfile.SoundFile` that a reader needs.

    Headers of these formats do not tell the number of samples exactly, so a file is decoded for its length.

    Args:
        path: File.
        kind: Name of the format, from `media_kind`.

    Attributes:
        frames: Number of samples of each channel.
        samplerate: Sampling rate, Hz.
        channels: Number of channels.

    Raises:
        MediaError: There is no decoder, or the file cannot be decoded.
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path, kind: str) -> None:
        status = path.stat()
        self._key = (path, kind, (status.st_size, status.st_mtime_ns))
        self._position = 0
        if status.st_size <= _SMALL:
            decoded = _whole(*self._key)
            self.frames, self.channels = decoded.frames_TC.shape
            self.samplerate = decoded.rate
        else:
            self.frames, self.channels, self.samplerate = _size(*self._key)
        self._is_small = status.st_size <= _SMALL

    def seek(self, position: int) -> None:
        """Continue at a sample."""
        self._position = position

    def read(self, frames: int, *, dtype: str, always_2d: bool) -> npt.NDArray[np.float32]:  # noqa: ARG002 - as soundfile
        """Return the next samples, float32 [T, C], at most the given number."""
        start, end = self._position, self._position + frames
        self._position = end
        path, kind, _ = self._key
        if self._is_small:
            samples_TC = _whole(*self._key).frames_TC[start:end]
        else:
            samples_TC = _decode(path, kind, _SAMPLES, (start, end)).frames_TC
        return np.array(samples_TC, dtype=np.float32)


def media_kind(file: BinaryIO) -> str | None:
    """Return the name of the format of a file that libsndfile does not read, or None for any other file.

    Raises:
        OSError: The file cannot be read.
    """
    beginning = file.read(_LONGEST_BEGINNING)
    return next((kind for pattern, kind in _BEGINNINGS.items() if pattern.match(beginning)), None)


@lru_cache(maxsize=1)  # the length of a file is asked for before its samples
def _whole(path: Path, kind: str, version: tuple[int, int]) -> _Decoded:  # noqa: ARG001 - the cache's key
    return _decode(path, kind, _SAMPLES)


@lru_cache(maxsize=1_024)  # many clips may be stretches of a single long recording
def _size(path: Path, kind: str, version: tuple[int, int]) -> tuple[int, int, int]:  # noqa: ARG001 - the cache's key
    decoded = _decode(path, kind, _BYTES)
    return (*decoded.frames_TC.shape, decoded.rate)


def _decode(path: Path, kind: str, encoding: tuple[str, str], stretch: tuple[int, int] | None = None) -> _Decoded:
    """Decode a file, or a stretch between two samples, by torchcodec without a process, or by ffmpeg."""
    if (decoder := _torchcodec()) is not None:
        try:
            samples = decoder(os.fsdecode(path)).get_all_samples()
        except Exception as error:  # torchcodec documents none
            raise MediaError(Fault("audio that torchcodec decodes", _first_line(str(error)))) from error
        return _Decoded(samples.data.numpy().T[slice(*stretch or (None,))], int(samples.sample_rate))
    program = shutil.which("ffmpeg")
    if program is None:
        raise MediaError(
            Fault(
                f"torchcodec or the program ffmpeg, which decode {kind} audio",
                "neither: install one of them (apt-get install ffmpeg, or pip install torchcodec)",
            )
        )
    return _run_ffmpeg(program, path, encoding, stretch)


@lru_cache(maxsize=1)
def _torchcodec() -> Any:
    """Return torchcodec's decoder, or None if torchcodec is missing or does not load beside this torch and FFmpeg."""
    try:
        from torchcodec.decoders import AudioDecoder
    except Exception:  # noqa: BLE001 - a library that was compiled for another torch fails in any way
        return None
    return AudioDecoder


def _run_ffmpeg(program: str, path: Path, encoding: tuple[str, str], stretch: tuple[int, int] | None) -> _Decoded:
    codec, dtype = encoding
    trim = () if stretch is None else ("-af", f"atrim=start_sample={stretch[0]}:end_sample={stretch[1]}")
    # A media file may name other files and addresses, so only local files are allowed. `file:` keeps a name with a
    # colon from being an address. AU has a header with rate and channels, and needs no length for a pipe.
    source = b"file:" + os.fsencode(path)
    before = (program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i", source)
    after = ("-map", "0:a:0", *trim, "-c:a", codec, "-f", "au", "pipe:1")
    done = subprocess.run([*before, *after], stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    if done.returncode != 0 or done.stderr:  # a file that was cut off has only a message
        got = _first_line(done.stderr.decode(errors="replace")) or f"its exit status {done.returncode}"
        if _EARLY_END.search(got):
            got = f"{got}: {CUT_OFF}"
        raise MediaError(Fault("audio that ffmpeg decodes without errors", got))
    if len(done.stdout) < _HEADER.size:
        raise MediaError(Fault("at least one sample of audio", "none"))
    _, start, _, _, rate, channels = _HEADER.unpack_from(done.stdout)
    samples = np.frombuffer(done.stdout, dtype=dtype, offset=start)
    return _Decoded(samples[: len(samples) // channels * channels].reshape(-1, channels), rate)


def _first_line(text: str) -> str:
    """Return the first line of an error message, without the name of the program's part."""
    return re.sub(r"^\[[^\]]* @ 0x\w+\] ", "", text.strip().partition("\n")[0]).rstrip(".")
