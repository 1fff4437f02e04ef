"""Samples of like length share a batch, with the same batches for one seed, whatever the number of ranks."""

import math

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard

from higgs_audio_trainer.data.batch import FillingIndex
from higgs_audio_trainer.training.sampler import BudgetedBatches, LengthGroupedOrder

FRAME_RATE_HZ = 25


def speech(count, seed=0):
    """Draw seconds and positions of speech: log-normal from 1 to 20 s, with a median of 5 s."""
    numbers = np.random.default_rng(seed)
    drawn = np.exp(numbers.normal(math.log(5), 0.7, 10 * count))
    seconds = drawn[(drawn >= 1) & (drawn <= 20)][:count]
    return seconds.tolist(), [round(70 + 28.5 * one) for one in seconds]


def padding_share(batches, lengths):
    """Compute the share of positions that are padding."""
    positions = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / positions


def slices(order, size):
    """Cut an order into batches."""
    order = list(order)
    return [order[start : start + size] for start in range(0, len(order), size)]


def dealt(batches, num_ranks):
    """Return the batches of each rank, as accelerate deals them."""
    return [list(BatchSamplerShard(batches, num_ranks, rank)) for rank in range(num_ranks)]


@pytest.mark.parametrize("count", [1000, 3000])
@pytest.mark.parametrize("group_size", [16, 128])
def test_grouped_batches_hardly_pad(count, group_size):
    """Batches of 16 have at most 5 % of padding, and every sample comes once in an epoch."""
    _, lengths = speech(count)
    order = LengthGroupedOrder(group_size, lengths, seed=1)
    assert padding_share(slices(order, 16), lengths) <= 0.05
    assert padding_share(slices(torch.randperm(count).tolist(), 16), lengths) > 0.4
    assert sorted(order) == list(range(count))


def test_an_epoch_groups_other_samples_than_the_epoch_before():
    """The order follows the seed and the epoch, and the longest sample comes first."""
    _, lengths = speech(640)
    order = LengthGroupedOrder(16, lengths, seed=1)
    first = list(order)
    assert first == list(order) == list(LengthGroupedOrder(16, lengths, seed=1))
    assert lengths.index(max(lengths)) in first[:16]
    order.set_epoch(1)
    assert {*map(frozenset, slices(order, 16))} != {*map(frozenset, slices(first, 16))}


@pytest.mark.parametrize("is_sequential", [False, True])
def test_batches_fill_the_budget(is_sequential):
    """No batch has more padded audio than the budget, and no two neighbours fit into one batch."""
    seconds, lengths = speech(1000)
    batches = list(BudgetedBatches(lengths, seconds, 60.0, seed=1, is_sequential=is_sequential))
    assert sorted(index for batch in batches for index in batch) == list(range(1000))
    padded = [len(batch) * max(seconds[index] for index in batch) for batch in batches]
    assert max(padded) <= 60.0
    if is_sequential:
        assert [index for batch in batches for index in batch] == list(range(1000))
    else:
        assert sum(padded) / len(padded) > 0.9 * 60.0
        assert padding_share(batches, lengths) < 0.02


def test_each_epoch_shuffles_the_same_batches():
    """The number of batches of an epoch stays, which decides the steps of a run."""
    seconds, lengths = speech(500)
    batches = BudgetedBatches(lengths, seconds, 30.0, seed=1)
    first = list(batches)
    batches.set_epoch(1)
    second = list(batches)
    assert first != second
    assert sorted(map(sorted, first)) == sorted(map(sorted, second))
    assert list(BudgetedBatches(lengths, seconds, 30.0, seed=2)) != first


@pytest.mark.parametrize("num_ranks", [2, 3, 64])
def test_ranks_share_the_batches_of_one_rank(num_ranks):
    """Every rank has as many batches as the others. What fills the last turn is masked, and nothing is left out."""
    seconds, lengths = speech(500)
    alone = list(BudgetedBatches(lengths, seconds, 30.0, seed=1))
    shared = BudgetedBatches(lengths, seconds, 30.0, seed=1, num_ranks=num_ranks)
    ranks = dealt(shared, num_ranks)
    assert {len(rank) for rank in ranks} == {math.ceil(len(alone) / num_ranks)} == {len(shared) // num_ranks}
    in_turns = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    assert in_turns[: len(alone)] == alone
    assert all(isinstance(index, FillingIndex) for batch in in_turns[len(alone) :] for index in batch)


def test_fewer_batches_than_ranks():
    """A rank without a sample of its own takes part."""
    ranks = dealt(BudgetedBatches([50], [2.0], 30.0, seed=1, num_ranks=4), 4)
    assert ranks == [[[0]]] * 4
    assert [isinstance(rank[0][0], FillingIndex) for rank in ranks] == [False, True, True, True]


def test_an_incomplete_turn_is_dropped_on_request():
    """`--dataloader_drop_last` drops less than a turn, and nothing on one rank."""
    seconds, lengths = speech(100)
    options = {"max_seconds": 30.0, "seed": 1, "drop_last": True}
    alone = len(BudgetedBatches(lengths, seconds, **options))
    assert len(list(BudgetedBatches(lengths, seconds, **options))) == alone
    shared = BudgetedBatches(lengths, seconds, **options, num_ranks=alone - 1)
    assert len(list(shared)) == len(shared) == alone - 1


def test_a_sample_above_the_budget_has_a_batch_of_its_own():
    """The sample is trained on, first in each epoch, so that a memory that is too small shows at once."""
    seconds, lengths = speech(100)
    batches = list(BudgetedBatches([*lengths, 2000], [*seconds, 70.0], 30.0, seed=1))
    assert batches[0] == [100]
