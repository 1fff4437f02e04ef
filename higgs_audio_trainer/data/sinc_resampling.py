"""Resampling by a windowed sinc filter, as `torchaudio.functional.resample` does it.

The Higgs codec was trained on audio that torchaudio resampled from 24 to 16 kHz. Another filter would change the codes,
so the resampling of audio files, which soxr does better, cannot replace this one.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

_ZERO_CROSSINGS = 6  # of the sinc on each side of its maximum, torchaudio's `lowpass_filter_width`
_ROLLOFF = 0.99  # cutoff frequency as a fraction of the lower Nyquist frequency


def resample_sinc(waveform: torch.Tensor, orig_freq: int, new_freq: int) -> torch.Tensor:
    """Return a waveform at another sampling rate, equal to `torchaudio.functional.resample` with its defaults.

    A sample of the result is the sum over all i of x[i] h(i / orig_freq - j / new_freq), with a sinc of the cutoff
    frequency under a Hann window for h. Source: J. O. Smith, "Digital Audio Resampling Home Page",
    https://ccrma.stanford.edu/~jos/resample/. The filters of sample j and of sample j + new_freq / gcd are the same, so
    the resampling is a convolution with new_freq / gcd filters and a stride of orig_freq / gcd.

    Args:
        waveform: Samples, a floating dtype [..., T].
        orig_freq: Sampling rate of the waveform, Hz.
        new_freq: Sampling rate of the result, Hz.

    Returns:
        Samples, the same dtype and device, [..., ceil(T * new_freq / orig_freq)].

    Example:
        >>> resample_sinc(torch.zeros(2, 24_000), 24_000, 16_000).shape
        torch.Size([2, 16000])
    """
    if orig_freq == new_freq:
        return waveform
    gcd = math.gcd(orig_freq, new_freq)
    step, filters = orig_freq // gcd, new_freq // gcd
    kernels, width = _kernels(step, filters, waveform.dtype, waveform.device)
    length = waveform.shape[-1]
    rows_BT = F.pad(waveform.reshape(-1, length), (width, width + step))
    resampled_BFJ = F.conv1d(rows_BT[:, None], kernels, stride=step)
    resampled = resampled_BFJ.transpose(1, 2).reshape(len(rows_BT), -1)[:, : -(-filters * length // step)]
    return resampled.reshape(*waveform.shape[:-1], -1)


def _kernels(step: int, filters: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, int]:
    """Return the filters, [filters, 1, taps], and their reach to each side in samples of the waveform.

    The operations are torchaudio's in the order of torchaudio, so that rounding errors are the same.
    """
    cutoff = min(step, filters) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * step / cutoff)
    taps = torch.arange(-width, width + step, dtype=dtype, device=device)[None, None] / step
    times = torch.arange(0, -filters, -1, dtype=dtype, device=device)[:, None, None] / filters + taps
    times = (times * cutoff).clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(times * math.pi / _ZERO_CROSSINGS / 2) ** 2
    times = times * math.pi
    kernels = torch.where(times == 0, torch.ones_like(times), times.sin() / times)
    return kernels * (window * (cutoff / step)), width
