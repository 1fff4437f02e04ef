"""Clips of a manifest: keys, checks of the headers, and encoding of one clip to a row of the index."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.audio import AudioError, AudioInfo, audio_info, load_frames, resample
from higgs_audio_trainer.data.audio_facts import AudioFacts, audio_facts
from higgs_audio_trainer.data.channels import mix
from higgs_audio_trainer.data.codes import load_codes
from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from higgs_audio_trainer.data.codec import Codec

FRAME_RATE_HZ = 25  # of the Higgs codec, 24 kHz at 960 samples a frame; assumed for pre-encoded codes

_SLACK_S = 0.5  # by which the times of a manifest may go past the end of a file
_ROUNDING_S = 0.1  # of a length in a manifest
_HEAD_BYTES = 8_192
_FACTS = [field.name for field in fields(AudioFacts)]


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """Limits for clips.

    Attributes:
        num_codebooks: Number of codebooks K of the model.
        num_codes: Number of codes of a codebook, without stream BOS and EOS.
        max_seconds: Length of the longest clip.
    """

    num_codebooks: int
    num_codes: int
    max_seconds: float


class FileState(NamedTuple):
    """State of a file, by which a change is noticed without reading the file.

    Attributes:
        size: Number of bytes. -1 for a missing file.
        mtime_ns: Time of the last change.
    """

    size: int
    mtime_ns: int


MISSING = FileState(-1, 0)


def state_of(path: Path | str) -> FileState:
    """Return the state of a file, `MISSING` for a missing file or a file out of reach."""
    try:
        status = os.stat(path)  # noqa: PTH116 - three times as fast as Path.stat()
    except OSError:
        return MISSING
    return FileState(status.st_size, status.st_mtime_ns)


def clip_key(clip: Clip, state: FileState) -> str:
    """Return the key of a clip in the index: a hash of path, size, time of the last change, and stretch."""
    stretch = f"{clip.offset_s!r}:{clip.duration_s!r}:{clip.stated_s!r}"
    text = f"{state.size}:{state.mtime_ns}:{stretch}:".encode() + os.fsencode(clip.path)
    return hashlib.blake2b(text, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class CheckedClip:
    """A clip of audio whose header is all right.

    Attributes:
        clip: The clip, with a stretch within the file.
        claim: Name of the claim for the encoding. Recordings with the same size, the same first bytes and the same
            stretch share the name, so that a recording is encoded once, whatever its names.
        seconds: Length of the clip.
        least_frames: Lower limit of the number of codec frames.
        shortened: True if the clip ends before the end of its file because of a duration without an offset.
    """

    clip: Clip
    claim: str
    seconds: float
    least_frames: int
    shortened: bool


def check_audio(clip: Clip, limits: ClipLimits, codec: Codec) -> CheckedClip:
    """Check a clip of audio by the header of its file.

    Raises:
        AudioError: The clip is unusable.
    """
    given, clip = clip, _fitted(clip)
    info = audio_info(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
    check_seconds(info.seconds, limits)
    least_frames = _least_frames(info, codec)
    shortened = given.stated_s is not None and clip.duration_s is not None
    return CheckedClip(clip, _claim(clip), info.seconds, least_frames, shortened)


def _least_frames(info: AudioInfo, codec: Codec) -> int:
    least_frames = info.length * codec.sampling_rate_hz // (info.rate * codec.hop_length)
    if least_frames == 0:
        frame_ms = 1000 * codec.hop_length / codec.sampling_rate_hz
        raise AudioError(f"at least one codec frame of audio, {frame_ms:g} ms", f"{1000 * info.seconds:.1f} ms")
    return least_frames


def _claim(clip: Clip) -> str:
    digest = hashlib.blake2b(f"{clip.offset_s!r}:{clip.duration_s!r}:".encode(), digest_size=16)
    try:
        with clip.path.open("rb", buffering=0) as file:
            digest.update(f"{os.fstat(file.fileno()).st_size}:".encode() + file.read(_HEAD_BYTES))
    except OSError as error:
        raise AudioError("a readable file", str(error.strerror)) from error
    return digest.hexdigest()


def check_codes(clip: Clip, limits: ClipLimits) -> npt.NDArray[np.int64]:
    """Read and check a clip of codes.

    Returns:
        Codes, int64 [K, T].

    Raises:
        AudioError: The clip is unusable.
    """
    codes_KT = load_codes(clip.path, num_codebooks=limits.num_codebooks, num_codes=limits.num_codes)
    seconds = codes_KT.shape[1] / FRAME_RATE_HZ
    check_seconds(seconds, limits)
    if clip.stated_s is not None and abs(clip.stated_s - seconds) > _longest_rounding(clip.stated_s, _SLACK_S):
        raise AudioError(f"codes of {clip.stated_s:g} s, as the duration says", f"{seconds:.2f} s")
    return codes_KT


def check_seconds(seconds: float, limits: ClipLimits) -> None:
    """Check the length of a clip.

    Raises:
        AudioError: The clip is too long.
    """
    if seconds > limits.max_seconds:
        raise AudioError(f"at most {limits.max_seconds:g} s (--max_seconds)", f"{seconds:.2f} s")


class DecodedAudio(NamedTuple):
    """A decoded clip and what the index keeps about the clip.

    Attributes:
        waveform: Samples at the sampling rate of the codec, float32 [T].
        row: Facts for the index.
    """

    waveform: npt.NDArray[np.float32]
    row: dict[str, Any]


def decode_audio(clip: Clip, to_rate: int) -> DecodedAudio:
    """Decode a clip, and describe the clip for the index.

    Args:
        clip: A checked clip.
        to_rate: Sampling rate of the waveform, Hz.

    Raises:
        AudioError: The clip is no readable audio, is shorter than its header says, or holds NaN or infinity.
    """
    frames_TC, rate = load_frames(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
    mixed = mix(frames_TC, rate)
    facts = audio_facts(frames_TC, rate, mixed=mixed)
    row: dict[str, Any] = {"seconds": facts.seconds, "facts": {name: getattr(facts, name) for name in _FACTS}}
    if mixed.channel is not None:
        row["channel"] = mixed.channel
    return DecodedAudio(resample(mixed.waveform, rate, to_rate), row)


def encode_audio(waveform: npt.NDArray[np.float32], codec: Codec, limits: ClipLimits) -> npt.NDArray[np.int64]:
    """Return the codes of a waveform, int64 [K, T]. A clip is never padded, since padding changes most of its codes.

    Raises:
        UserError: The codec does not fit the model.
    """
    codes_KT = codec.encode(waveform)
    if codes_KT.shape[0] != limits.num_codebooks or codes_KT.max() >= limits.num_codes:
        raise UserError(
            f"--audio_tokenizer {codec.name}: expected {limits.num_codebooks} codebooks of "
            f"{limits.num_codes} codes, as in the model, got {codes_KT.shape[0]} codebooks and codes up to "
            f"{codes_KT.max()}. Use the codec of --base_ckpt."
        )
    return codes_KT


def _fitted(clip: Clip) -> Clip:
    """Return the clip with a stretch that lies within the file, and without a duration for a whole file.

    Raises:
        AudioError: The stretch goes past the end of the file, or the file cannot be read, or it is unclear whether the
            duration is the length of the file.
    """
    if clip.duration_s is None and clip.stated_s is None:
        return clip
    info = audio_info(clip.path)
    seconds = info.seconds
    if clip.duration_s is not None:
        end_s = clip.offset_s + clip.duration_s
        if end_s > seconds + _SLACK_S:
            raise AudioError(f"an end within the recording of {seconds:.2f} s", f"an end at {end_s:.2f} s")
        is_whole = clip.offset_s == 0 and abs(end_s - seconds) <= 1 / info.rate
        return replace(clip, duration_s=None) if is_whole else clip
    return _fitted_to_stated(clip, seconds)


def _fitted_to_stated(clip: Clip, seconds: float) -> Clip:
    """Return the whole recording or the first stretch, by the stated length."""
    stated_s = clip.stated_s
    assert stated_s is not None
    if stated_s - seconds > _longest_rounding(stated_s, _SLACK_S):
        raise AudioError(f"a recording of {stated_s:g} s, as the duration says", f"{seconds:.2f} s")
    if seconds - stated_s <= _ROUNDING_S:
        return replace(clip, stated_s=None)
    if seconds - stated_s < _longest_rounding(stated_s, 0):
        raise AudioError(
            f"a duration of {seconds:.2f} s, or an offset of 0 for the first {stated_s:g} s",
            f"a duration of {stated_s:g} s, which may be rounded",
        )
    return replace(clip, duration_s=stated_s, stated_s=None)


def _longest_rounding(seconds: float, least: float) -> float:
    """Return the largest difference between a length in a manifest and the true length; seconds."""
    return max(1.0 if seconds.is_integer() else 0.0, least)
