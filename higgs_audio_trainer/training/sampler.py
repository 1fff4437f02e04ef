"""Order of the training samples: groups of about the same length, and batches under a budget of audio.

An order depends on the seed and the epoch alone, so ranks and resumed runs draw the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from higgs_audio_trainer.data.batch import FillingIndex

_WINDOW = 2048  # samples that are sorted together, at least
_GROUPS = 50  # of a window, at least, so that a group covers a narrow range of lengths
_JITTER = 0.02  # random share added to a length, so that an epoch groups other samples than the epoch before


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

    def __init__(self, group_size: int, lengths: Sequence[int], seed: int) -> None:
        self._size, self._lengths, self._seed, self._epoch = group_size, lengths, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of the samples."""
        random, size = torch.Generator().manual_seed(self._seed + self._epoch), self._size
        noise = torch.rand(len(self._lengths), generator=random, dtype=torch.float64).tolist()
        lengths = [length * (1 + _JITTER * part) for length, part in zip(self._lengths, noise, strict=True)]
        window = size * max(_GROUPS, -(-_WINDOW // size))
        in_order = [index for part in _windows(lengths, window, random) for index in part]
        whole = len(in_order) // size * size  # a group that is not full stays last: slices of the order are batches
        groups = [in_order[start : start + size] for start in range(0, whole, size)]
        for group in (*_shuffled(groups, self._lengths, random), in_order[whole:]):
            yield from group


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
        lengths: Sequence[int],
        seconds: Sequence[float],
        max_seconds: float,
        seed: int,
        *,
        num_ranks: int = 1,
        is_sequential: bool = False,
        drop_last: bool = False,
    ) -> None:
        self._lengths, self._seed, self._epoch = lengths, seed, 0
        self._num_ranks, self._is_sequential, self._drop_last = num_ranks, is_sequential, drop_last
        window = max(_WINDOW, _GROUPS * int(max_seconds * len(seconds) / sum(seconds)))
        random = torch.Generator().manual_seed(seed)
        parts = [range(len(lengths))] if is_sequential else _windows(lengths, window, random)
        self._batches = [batch for part in parts for batch in _filled(part, seconds, max_seconds)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of all ranks together, a multiple of the number of ranks."""
        turns, rest = divmod(len(self._batches), self._num_ranks)
        return (turns + (rest > 0 and not self._drop_last)) * self._num_ranks

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of the samples of each batch."""
        batches = self._batches
        if not self._is_sequential:
            batches = _shuffled(batches, self._lengths, torch.Generator().manual_seed(self._seed + self._epoch))
        yield from batches[: len(self)]
        shortest = min(range(len(self._lengths)), key=self._lengths.__getitem__)
        for _ in range(len(self) - len(batches)):
            yield [FillingIndex(shortest)]


def _filled(indices: Sequence[int], seconds: Sequence[float], max_seconds: float) -> Iterator[list[int]]:
    """Yield batches of neighbours."""
    batch: list[int] = []
    longest = 0.0
    for index in indices:
        longest = max(longest, seconds[index])
        if batch and longest * (len(batch) + 1) > max_seconds:
            yield batch
            batch, longest = [], seconds[index]
        batch.append(index)
    yield batch


def _windows(lengths: Sequence[float], size: int, random: torch.Generator) -> Iterator[list[int]]:
    """Yield windows of a random order of the samples, the samples of each window sorted from long to short."""
    shuffled = torch.randperm(len(lengths), generator=random).tolist()
    for start in range(0, len(shuffled), size):
        yield sorted(shuffled[start : start + size], key=lambda index: -lengths[index])


def _shuffled(groups: list[list[int]], lengths: Sequence[int], random: torch.Generator) -> list[list[int]]:
    """Return groups in a random order, the group with the longest sample first."""
    in_order = [groups[number] for number in torch.randperm(len(groups), generator=random).tolist()]
    longest = max(in_order, key=lambda group: max(lengths[index] for index in group), default=None)
    return in_order if longest is None else [longest, *(group for group in in_order if group is not longest)]
