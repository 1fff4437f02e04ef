"""Facts about the sound of a decoded clip, for the audit of the data. numpy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.channels import Mix, mix

_WINDOW_S = 0.01
_RUN = 3  # equal samples at the extreme value that count as clipped; a peak of speech has one or two
_QUIETEST_CLIPPED = 1e-2  # peak below which runs of equal samples come from the steps of 16 bits
_JUMP = 1e-2  # least jump into a flat top, relative to its value
_MOST_ROUNDING = 3.5 / 2**15  # jumps between rounded samples near a smooth peak
_NEIGHBOURS, _LEAST_LOUD = 5, 3  # a window is sound if so many of its neighbours are loud, so that a click is none
_LOUD_SHARE, _LEAST_WINDOWS = 0.02, 5  # the loudest windows beyond these give the level of the speech
_QUIET_SHARE = 0.1  # the quietest windows below this give the level of the noise
_ABOVE_NOISE = 10 ** (6 / 20)
_LOWEST, _HIGHEST = 10 ** (-40 / 20), 10 ** (-25 / 20)  # limits of the threshold, relative to the level of the speech
_STEPS = 2**15  # of 16 bits, from 0 to full scale
_FAINTEST = 1e-5  # level without sound, -100 dBFS


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """Facts about the samples of a clip. Full scale is 1.

    Attributes:
        rate: Sampling rate of the file, Hz.
        channels: Number of channels.
        frames: Number of samples of each channel.
        promised_frames: Number of samples of each channel by the file's header.
        peak: Largest absolute value.
        level_dbfs: RMS of the loudest windows of 10 ms, the level of the speech, without a constant offset; dBFS. None
            for a clip without sound.
        clipped_share: Share of the samples in runs of at least three samples at the highest or the lowest value.
        beyond_share: Share of the samples beyond -1 and 1.
        offset: Mean of the channel with the largest mean.
        cancels: True if the channels cancel each other out in the mean.
        leading_silence_s: Time before the first sound, seconds. The length of a clip without sound.
        trailing_silence_s: Time after the last sound, seconds. The length of a clip without sound.
        content_hash: Hash of samples, sampling rate and number of channels; 32 hexadecimal digits. Equal for the same
            recording in two lossless formats of the same bit depth.
    """

    rate: int
    channels: int
    frames: int
    promised_frames: int
    peak: float
    level_dbfs: float | None
    clipped_share: float
    beyond_share: float
    offset: float
    cancels: bool
    leading_silence_s: float
    trailing_silence_s: float
    content_hash: str

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


def audio_facts(
    frames_TC: npt.NDArray[np.float32], rate: int, promised_frames: int | None = None, mixed: Mix | None = None
) -> AudioFacts:
    """Return the facts about a clip.

    Args:
        frames_TC: Samples as decoded, finite, float32 [T, C], at least one sample.
        rate: Sampling rate, Hz.
        promised_frames: Number of samples T by the file's header. None for as many as there are.
        mixed: Result of `mix` for these samples. None for a call of `mix`.

    Example:
        >>> tone = np.sin(np.arange(24_000, dtype=np.float32))
        >>> facts = audio_facts(np.concatenate([np.zeros(48_000, np.float32), tone])[:, None], 24_000)
        >>> facts.leading_silence_s, facts.trailing_silence_s, facts.clipped_share
        (2.0, 0.0, 0.0)
    """
    num_frames, num_channels = frames_TC.shape
    channels_CT = np.ascontiguousarray(frames_TC.T)  # reductions of single channels are many times faster
    offset = max((float(channel_T.mean(dtype=np.float64)) for channel_T in channels_CT), key=abs)
    low, high = float(channels_CT.min()), float(channels_CT.max())
    waveform_T, channel = mixed or mix(frames_TC, rate)
    levels_N = _window_levels(waveform_T, rate)
    level = _level(levels_N)
    leading, trailing = _silent_windows(levels_N, level)
    return AudioFacts(
        rate=rate,
        channels=num_channels,
        frames=num_frames,
        promised_frames=num_frames if promised_frames is None else promised_frames,
        peak=max(high, -low),
        level_dbfs=round(20 * math.log10(level), 2) if level > _FAINTEST else None,
        clipped_share=sum(map(_clipped, channels_CT)) / channels_CT.size,
        beyond_share=int(np.count_nonzero(np.abs(channels_CT) > 1)) / channels_CT.size if max(high, -low) > 1 else 0.0,
        offset=offset,
        cancels=channel is not None,
        leading_silence_s=min(leading * _window(rate), num_frames) / rate,
        trailing_silence_s=min(trailing * _window(rate), num_frames) / rate,
        content_hash=content_hash(frames_TC, rate),
    )


def content_hash(frames_TC: npt.NDArray[np.float32], rate: int) -> str:
    """Return the hash of samples, sampling rate and number of channels; 32 hexadecimal digits.

    Args:
        frames_TC: Samples, float32 [T, C].
        rate: Sampling rate, Hz.

    Example:
        >>> silence = np.zeros((100, 1), dtype=np.float32)
        >>> content_hash(silence, 8_000) == content_hash(silence.copy(), 8_000) != content_hash(silence, 16_000)
        True
    """
    digest = blake2b(f"{rate} {frames_TC.shape[1]}\n".encode(), digest_size=16)
    samples = np.ascontiguousarray(frames_TC).reshape(-1)
    steps = samples * np.float32(_STEPS)
    if steps.min() >= -_STEPS and steps.max() < _STEPS and np.array_equal(whole := steps.astype(np.int16), steps):
        digest.update(whole.data)  # samples of 16 bits, half as much to hash
    else:
        digest.update((samples + np.float32(0)).data)  # the sum makes a negative zero positive
    return digest.hexdigest()


def _window(rate: int) -> int:
    return max(1, round(_WINDOW_S * rate))


def _window_levels(waveform_T: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float64]:
    """Return the RMS of each window around the mean of the clip. A rest shorter than a window has no level."""
    window = min(_window(rate), len(waveform_T))
    windows_NW = waveform_T[: len(waveform_T) // window * window].reshape(-1, window)
    mean = float(waveform_T.mean(dtype=np.float64))
    squares_N = np.einsum("nw,nw->n", windows_NW, windows_NW).astype(np.float64) / window
    means_N = windows_NW.mean(axis=1, dtype=np.float64)
    return np.sqrt(np.maximum(squares_N - 2 * mean * means_N + mean**2, 0))


def _level(levels_N: npt.NDArray[np.float64]) -> float:
    """Return the level of the speech: a high quantile, so that a click does not count."""
    beyond = min(max(round(_LOUD_SHARE * len(levels_N)), _LEAST_WINDOWS), len(levels_N)) - 1
    return float(np.partition(levels_N, len(levels_N) - 1 - beyond)[len(levels_N) - 1 - beyond])


def _silent_windows(levels_N: npt.NDArray[np.float64], level: float) -> tuple[int, int]:
    """Return the number of windows before the first sound and after the last sound."""
    if level <= _FAINTEST:
        return len(levels_N) + 1, len(levels_N) + 1
    rank = int(_QUIET_SHARE * len(levels_N))
    noise = float(np.partition(levels_N, rank)[rank])
    threshold = min(max(noise * _ABOVE_NOISE, level * _LOWEST), level * _HIGHEST)
    is_loud_N = levels_N >= threshold
    near_N = np.convolve(is_loud_N, np.ones(_NEIGHBOURS))[_NEIGHBOURS // 2 :][: len(levels_N)]
    sound = np.flatnonzero(is_loud_N & (near_N >= min(_LEAST_LOUD, len(levels_N))))
    if not len(sound):
        sound = np.flatnonzero(is_loud_N)
    return int(sound[0]), len(levels_N) - 1 - int(sound[-1])


def _clipped(waveform_T: npt.NDArray[np.float32]) -> int:
    """Return the number of samples of a channel in runs at the highest or the lowest value."""
    count = 0
    for extreme in {float(waveform_T.min()), float(waveform_T.max())}:
        if abs(extreme) >= _QUIETEST_CLIPPED:
            at = np.flatnonzero(waveform_T == np.float32(extreme))
            if len(at) >= _RUN:
                count += _flat(waveform_T, at, extreme)
    return count


def _flat(waveform_T: npt.NDArray[np.float32], at: npt.NDArray[np.intp], extreme: float) -> int:
    """Return the number of samples in runs that begin or end with a jump. A smooth peak of rounded samples has none."""
    breaks = np.flatnonzero(np.diff(at) > 1)
    starts, ends = at[np.r_[0, breaks + 1]], at[np.r_[breaks, len(at) - 1]]
    lengths = ends - starts + 1
    before = np.abs(waveform_T[np.maximum(starts - 1, 0)] - extreme)
    after = np.abs(waveform_T[np.minimum(ends + 1, len(waveform_T) - 1)] - extreme)
    is_clipped = (lengths >= _RUN) & (np.maximum(before, after) > max(_JUMP * abs(extreme), _MOST_ROUNDING))
    return int(lengths[is_clipped].sum())
