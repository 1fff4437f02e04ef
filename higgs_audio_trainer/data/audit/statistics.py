"""Statistics of the samples of a split."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.audit.characters import SCRIPTS
from higgs_audio_trainer.data.audit.columns import ClipColumns
from higgs_audio_trainer.events import SplitStatistics

_MOST_BINS, _USUAL_BINS = 100, 20  # in all, and of the shorter 95 % of the samples
_USUAL_QUANTILE = 0.95
_BINS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_HOUR_S = 3600


def split_statistics(columns: ClipColumns, start: int, count: int, speakers: Collection[str]) -> SplitStatistics:
    """Return the statistics of a split.

    Args:
        columns: Numbers about the clips of all samples.
        start: Number of the first sample of the split.
        count: Number of samples of the split.
        speakers: Different speakers of the split.
    """
    targets = (columns.sample >= start) & (columns.sample < start + count) & ~columns.is_reference
    samples = columns.sample[targets] - start
    keys = np.where(columns.audio[targets] != 0, columns.audio[targets], columns.codes[targets])
    seconds = np.bincount(samples, columns.seconds[targets], minlength=count)
    seconds = seconds[(np.bincount(samples, minlength=count) > 0) & np.isfinite(seconds)]
    bin_s = _bin_width(*np.quantile(seconds, (_USUAL_QUANTILE, 1)).tolist()) if len(seconds) else None
    return SplitStatistics(
        samples=count,
        recordings=len(np.unique(keys[keys != 0])) + int(np.count_nonzero(keys == 0)),
        audio_hours=round(float(seconds.sum()) / _HOUR_S, 4) if len(seconds) else None,
        speakers=len(speakers) or None,
        length_bin_s=bin_s,
        length_counts=() if bin_s is None else tuple(np.bincount((seconds / bin_s).astype(np.int64)).tolist()),
        shortest_s=round(float(seconds.min()), 3) if len(seconds) else None,
        median_s=round(float(np.median(seconds)), 3) if len(seconds) else None,
        longest_s=round(float(seconds.max()), 3) if len(seconds) else None,
        sampling_rates={str(rate): number for rate, number in _counts(columns.rate[targets]) if rate},
        scripts=_scripts(samples, columns.script[targets], columns.text[targets]),
    )


def _bin_width(usual_s: float, longest_s: float) -> float:
    """Return a convenient width of a bin. A single long sample must not put all others into one bin.

    Args:
        usual_s: Length that few samples exceed.
        longest_s: Length of the longest sample.

    Example:
        >>> _bin_width(1.9, 2.9), _bin_width(12.0, 28.0), _bin_width(5.0, 80.0)
        (0.1, 1.0, 1.0)
    """
    least = max(usual_s / _USUAL_BINS, longest_s / (_MOST_BINS - 1))
    return next((width for width in _BINS_S if width >= least), least)


def _counts(values: npt.NDArray[np.generic]) -> list[tuple[int, int]]:
    different, counts = np.unique(values, return_counts=True)
    return list(zip(different.tolist(), counts.tolist(), strict=True))


def _scripts(
    samples: npt.NDArray[np.uint32], scripts: npt.NDArray[np.uint8], texts: npt.NDArray[np.uint64]
) -> dict[str, int]:
    """Return the number of samples by the script of the first text, the most frequent first."""
    with_text = texts != 0
    first = np.flatnonzero(np.diff(samples[with_text].astype(np.int64), prepend=-1))
    counts = _counts(scripts[with_text][first])
    return {SCRIPTS[script]: number for script, number in sorted(counts, key=lambda item: (-item[1], item[0]))}
