"""Order of the training samples for `--train_sampling_strategy group_by_length`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class LengthGroupedOrder(LengthGroupedSampler):
    """Random order that groups samples of about the same length, a different order in each epoch.

    The order depends on the seed and the epoch alone, so ranks and resumed runs draw the same order.

    Args:
        batch_size: Samples that share a length: those of an optimizer step.
        lengths: Length of each sample, in positions.
        seed: Seed of the order.

    Example:
        >>> order = LengthGroupedOrder(2, [3, 9, 4, 8], seed=0)
        >>> sorted(order)
        [0, 1, 2, 3]
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int) -> None:
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of the samples."""
        self.generator.manual_seed(self._seed + self._epoch)
        yield from super().__iter__()
