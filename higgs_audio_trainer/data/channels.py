"""Channels of a recording, mixed to one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_WINDOW_S = 0.25
_CANCELLED = 0.25  # of the energy that the mean of unrelated channels has; 0 for two opposite channels
_MOST_CANCELLED = 0.1  # share of the sound


class Mix(NamedTuple):
    """A recording with one channel.

    Attributes:
        waveform: Samples, float32 [T].
        channel: Number of the channel that is taken alone, from 0. None for the mean of all channels.
    """

    waveform: npt.NDArray[np.float32]
    channel: int | None


def mix(frames_TC: npt.NDArray[np.float32], rate: int) -> Mix:
    """Return the mean of the channels, or the loudest channel if the channels cancel each other out in the mean.

    Args:
        frames_TC: Samples, float32 [T, C].
        rate: Sampling rate, Hz.

    Example:
        >>> left = np.sin(np.arange(800, dtype=np.float32))
        >>> mix(np.stack([left, left / 2], axis=1), 8_000).channel is None
        True
        >>> mix(np.stack([left, -left], axis=1), 8_000).channel
        0
    """
    if frames_TC.shape[1] == 1:
        return Mix(frames_TC[:, 0], None)
    centred_TC = frames_TC - frames_TC.mean(axis=0)
    starts = np.arange(0, len(frames_TC), max(1, round(_WINDOW_S * rate)))
    energies_WC = np.add.reduceat(np.square(centred_TC, dtype=np.float64), starts)
    mixed_W = np.add.reduceat(np.square(centred_TC.mean(axis=1), dtype=np.float64), starts)
    sound_W = energies_WC.sum(axis=1)
    unrelated_W = sound_W / frames_TC.shape[1] ** 2
    cancelled = sound_W[mixed_W < _CANCELLED * unrelated_W].sum()
    if cancelled > _MOST_CANCELLED * sound_W.sum():
        channel = int(energies_WC.sum(axis=0).argmax())
        return Mix(np.ascontiguousarray(frames_TC[:, channel]), channel)
    return Mix(frames_TC.mean(axis=1), None)
