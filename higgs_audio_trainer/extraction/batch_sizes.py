"""Sizes of micro-batches, which the host knows, summed over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Sizes of one or several micro-batches. A sample that only fills a batch counts as padding.

    Attributes:
        positions: Positions of the batches, B x S.
        tokens: Positions of the samples.
        audio_seconds: Audio of the samples; seconds.
        samples: Number of samples.
    """

    positions: float = 0
    tokens: float = 0
    audio_seconds: float = 0.0
    samples: float = 0

    def __add__(self, other: BatchSizes) -> BatchSizes:
        """Return the sizes of the batches of both.

        Example:
            >>> BatchSizes(8, 6, 0.5, 2) + BatchSizes(4, 4, 0.25, 1)
            BatchSizes(positions=12, tokens=10, audio_seconds=0.75, samples=3)
        """
        return BatchSizes(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def rows(self, like: Tensor) -> Tensor:
        """Return a tensor to add up over the ranks, without a transfer.

        Args:
            like: Sums [R, G] with the dtype, the device and the number of columns of the result.

        Returns:
            A row for each size, [4, G].
        """
        return torch.stack([like.new_full(like.shape[1:], value) for value in astuple(self)])


NUM_SIZES = len(fields(BatchSizes))
_UNKNOWN = BatchSizes(*[float("nan")] * NUM_SIZES)


def sizes_of(samples: Sequence[SampleRef], positions: int) -> BatchSizes:
    """Return the sizes of a micro-batch, all NaN if the size of a sample is unknown.

    Args:
        samples: Samples of the batch, without those that only fill the batch.
        positions: Positions of the batch, B x S.

    Example:
        >>> sizes_of([SampleRef("a", "1f0c", num_tokens=7, audio_seconds=0.25)], positions=8)
        BatchSizes(positions=8, tokens=7, audio_seconds=0.25, samples=1)
    """
    tokens, seconds = 0, 0.0
    for sample in samples:
        if sample.num_tokens is None or sample.audio_seconds is None:
            return _UNKNOWN
        tokens, seconds = tokens + sample.num_tokens, seconds + sample.audio_seconds
    return BatchSizes(positions, tokens, seconds, len(samples))
