"""Measures of generated speech, from its codes and from its waveform. numpy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_WINDOW_S = 0.02
_SILENT = 10 ** (-50 / 20)  # RMS of a silent window; full scale is 1

Codes = npt.NDArray[np.int64]


class Repeats(NamedTuple):
    """Frames that repeat the frame before, in all codebooks.

    Attributes:
        longest_run: Frames of the longest run of one frame, 0 without frames.
        share: Share of the frames after the first that repeat the frame before. 0 for fewer than two frames.
    """

    longest_run: int
    share: float


def repeats_of(codes_KT: Codes) -> Repeats:
    """Return the repeated frames of speech.

    Args:
        codes_KT: Codes, int64 [K, T].

    Example:
        >>> repeats_of(np.array([[1, 1, 1, 2], [5, 5, 5, 5]]))
        Repeats(longest_run=3, share=0.6666666666666666)
    """
    num_frames = codes_KT.shape[1]
    if num_frames < 2:  # noqa: PLR2004 - a frame and the next
        return Repeats(num_frames, 0.0)
    same = (codes_KT[:, 1:] == codes_KT[:, :-1]).all(axis=0)
    breaks = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
    return Repeats(int(np.diff(breaks).max()), float(same.mean()))


def agreement_of(codes_KT: Codes, label_KT: Codes) -> tuple[float, ...]:
    """Return the share of the label's codes that the speech has at the same place, for each codebook.

    Places that only one of the two has count as different.

    Args:
        codes_KT: Codes of the speech, int64 [K, T].
        label_KT: Codes of the recording, int64 [K, T'].

    Example:
        >>> agreement_of(np.array([[1, 2, 3]]), np.array([[1, 9, 3, 4]]))
        (0.5,)
    """
    both = min(codes_KT.shape[1], label_KT.shape[1])
    most = max(codes_KT.shape[1], label_KT.shape[1], 1)
    equal = (codes_KT[:, :both] == label_KT[:, :both]).sum(axis=1)
    return tuple((equal / most).tolist())


def silence_of(waveform_T: npt.NDArray[np.float32], rate: int) -> float:
    """Return the share of a waveform's windows of 20 ms that are silent, below -50 dBFS. 1 without a window.

    Args:
        waveform_T: Samples, float32 [T]; full scale is 1.
        rate: Sampling rate, Hz.

    Example:
        >>> silence_of(np.concatenate([np.zeros(24_000), np.full(24_000, 0.5)]).astype(np.float32), 24_000)
        0.5
    """
    window = max(1, round(_WINDOW_S * rate))
    windows_NW = waveform_T[: len(waveform_T) // window * window].reshape(-1, window)
    if not len(windows_NW):
        return 1.0
    levels_N = np.sqrt(np.mean(np.square(windows_NW, dtype=np.float64), axis=1))
    return float((levels_N < _SILENT).mean())
