"""Order of the training samples: groups of about the same length, and batches under a budget of audio.

An order depends on the seed and the epoch alone, so ranks and resumed runs draw the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from higgs_audio_trainer.data.batch import FillingIndex

_WINDOW = 2048  # samples that are sorted together, at least
_GROUPS = 50  # of a window, at least, so that a group covers a narrow range of lengths
_JITTER = 0.02  # random share added to a length, so that an epoch groups other samples than the epoch before

_Indices = npt.NDArray[np.int64]
_Lengths = Sequence[float] | npt.NDArray[np.integer | np.floating]


class LengthGroupedOrder(Sampler[int]):
    """Random order that groups samples of about the same length, a different order in each epoch.

    The group with the longest sample comes first, so that a memory that is too small shows at the first step.

    Args:
        group_size: Samples that share a length: those of an optimizer step.
        lengths: Length of each sample, in positions.
        seed: Seed of the order.

    Example:
        >>> order = LengthGroupedOrder(2, [3, 9, 4, 8], seed=0)
        >>> sorted(order)
        [0, 1, 2, 3]
    """

    def __init__(self, group_size: int, lengths: _Lengths, seed: int) -> None:
        self._size, self._lengths, self._seed, self._epoch = group_size, np.asarray(lengths), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of the samples."""
        random, size = torch.Generator().manual_seed(self._seed + self._epoch), self._size
        noise = torch.rand(len(self._lengths), generator=random, dtype=torch.float64).numpy()
        window = size * max(_GROUPS, -(-_WINDOW // size))
        in_order = _sorted_by_window(self._lengths * (1 + _JITTER * noise), window, random)
        whole = len(in_order) // size * size  # a group that is not full stays last: slices of the order are batches
        groups = in_order[:whole].reshape(-1, size)
        for number in _shuffled(self._lengths[groups].max(axis=1), random):
            yield from groups[number].tolist()
        yield from in_order[whole:].tolist()


class BudgetedBatches(Sampler[list[int]]):
    """Batches of as many samples of about the same length as fit into a budget of padded audio.

    The seed decides the batches, and each epoch has another order of the batches. The batch with the longest sample
    comes first. A sample that is longer than the budget is a batch of its own.

    Ranks take turns. The last turn gives a masked sample to the ranks that would have no batch, so the batches are the
    same for any number of ranks.

    Args:
        lengths: Length of each sample, in positions.
        seconds: Audio of each sample, more than 0; seconds.
        max_seconds: Most audio of a batch: number of samples x audio of the longest sample; seconds.
        seed: Seed of the batches.
        num_ranks: Number of ranks.
        is_sequential: Keep the order of the samples. By default, samples are sorted and batches are shuffled.
        drop_last: Drop the last turn if the turn has fewer batches than ranks.

    Example:
        >>> batches = BudgetedBatches([30, 100, 31, 99], [1.2, 4.0, 1.2, 4.0], max_seconds=8.0, seed=0)
        >>> [sorted(batch) for batch in batches]
        [[1, 3], [0, 2]]
    """

    def __init__(
        self,
        lengths: _Lengths,
        seconds: _Lengths,
        max_seconds: float,
        seed: int,
        *,
        num_ranks: int = 1,
        is_sequential: bool = False,
        drop_last: bool = False,
    ) -> None:
        self._seed, self._epoch, self._lengths = seed, 0, np.asarray(lengths)
        self._num_ranks, self._is_sequential, self._drop_last = num_ranks, is_sequential, drop_last
        seconds = np.asarray(seconds)
        self._order = np.arange(len(seconds))
        window = len(seconds)
        if not is_sequential:
            window = max(_WINDOW, _GROUPS * int(max_seconds * len(seconds) / seconds.sum()))
            self._order = _sorted_by_window(self._lengths, window, torch.Generator().manual_seed(seed))
        self._starts = np.fromiter(_starts(seconds[self._order], window, max_seconds), dtype=np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of all ranks together, a multiple of the number of ranks."""
        turns, rest = divmod(len(self._starts), self._num_ranks)
        return (turns + (rest > 0 and not self._drop_last)) * self._num_ranks

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of the samples of each batch."""
        numbers = np.arange(len(self._starts))
        if not self._is_sequential:
            longest = np.maximum.reduceat(self._lengths[self._order], self._starts)
            numbers = _shuffled(longest, torch.Generator().manual_seed(self._seed + self._epoch))
        ends = np.append(self._starts[1:], len(self._order))
        for number in numbers[: len(self)]:
            yield self._order[self._starts[number] : ends[number]].tolist()
        shortest = int(self._lengths.argmin())
        for _ in range(len(self) - len(numbers)):
            yield [FillingIndex(shortest)]


def _starts(seconds: npt.NDArray[np.integer | np.floating], window: int, max_seconds: float) -> Iterator[int]:
    """Yield the first place of each batch of neighbours. A batch lies within a window."""
    start, longest = 0, 0.0
    for place, length in enumerate(seconds):
        longest = max(longest, length)
        if place % window == 0 or longest * (place - start + 1) > max_seconds:
            yield place
            start, longest = place, length


def _sorted_by_window(lengths: npt.NDArray[np.integer | np.floating], size: int, random: torch.Generator) -> _Indices:
    """Return a random order of the samples, in which the samples of each window are sorted from long to short."""
    order: _Indices = torch.randperm(len(lengths), generator=random).numpy()
    for start in range(0, len(order), size):
        window = order[start : start + size]
        window[:] = window[np.argsort(-lengths[window], kind="stable")]
    return order


def _shuffled(longest: npt.NDArray[np.integer | np.floating], random: torch.Generator) -> _Indices:
    """Return a random order of groups, the first group with the longest sample in front.

    Args:
        longest: Length of the longest sample of each group, [G].
        random: Random numbers.
    """
    order: _Indices = torch.randperm(len(longest), generator=random).numpy()
    if len(order):
        first = int(longest[order].argmax())
        order[: first + 1] = np.roll(order[: first + 1], 1)
    return order
