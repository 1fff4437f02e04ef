"""Data loaders of a training: batches under a budget of audio, the epoch of every order, worker processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from higgs_audio_trainer.data.batch import SpeechDataset
from higgs_audio_trainer.data.clips import FRAME_RATE_HZ
from higgs_audio_trainer.third_party_imports import prepare_imports
from higgs_audio_trainer.training.sampler import BudgetedBatches
from higgs_audio_trainer.training.signals import leave_stop_signals_to_the_parent

if TYPE_CHECKING:
    from transformers import TrainingArguments

prepare_imports()  # a worker process that was not forked imports this module first, then transformers


def budgeted_loader(
    dataset: SpeechDataset, collate: Callable[..., Any], max_seconds: float, arguments: TrainingArguments
) -> DataLoader[Any]:
    """Return the loader of all ranks' batches under a budget of padded audio, as transformers would make a loader.

    A sample without audio counts as if its positions were frames of audio.

    Args:
        dataset: Training samples.
        collate: Makes a batch of examples.
        max_seconds: Most audio of a batch; seconds.
        arguments: Settings of the loader, the seed and the number of ranks.
    """
    from transformers.trainer_utils import seed_worker

    lengths, seconds = dataset.lengths(), dataset.audio_seconds()
    batches = BudgetedBatches(
        lengths,
        np.where(seconds > 0, seconds, lengths / FRAME_RATE_HZ),
        max_seconds,
        order_seed(arguments),
        num_ranks=arguments.world_size,
        is_sequential=arguments.train_sampling_strategy == "sequential",
        drop_last=arguments.dataloader_drop_last,
    )
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=arguments.dataloader_num_workers,
        pin_memory=arguments.dataloader_pin_memory,
        persistent_workers=arguments.dataloader_persistent_workers,
        multiprocessing_context=getattr(arguments, "dataloader_multiprocessing_context", None),
        prefetch_factor=arguments.dataloader_prefetch_factor,
        in_order=getattr(arguments, "dataloader_in_order", True),
        worker_init_fn=partial(seed_worker, num_workers=arguments.dataloader_num_workers, rank=arguments.process_index),
    )


def order_seed(arguments: TrainingArguments) -> int:
    """Return the seed of the order of the samples."""
    return int(arguments.seed if arguments.data_seed is None else arguments.data_seed)


def pass_on_epochs(loader: Any) -> None:
    """Let the epoch reach the order of the samples on several ranks, also in the rest of a resumed epoch.

    accelerate and transformers look for the order in the batch sampler, or in the `sampler` of the batch sampler within
    another. The batch sampler of one rank among several has no `sampler`.
    """
    from accelerate.data_loader import BatchSamplerShard

    shard = loader.batch_sampler
    if isinstance(shard, BatchSamplerShard):
        batches = shard.batch_sampler
        shard.sampler = batches if isinstance(batches, BudgetedBatches) else batches.sampler


def base_of(loader: Any) -> Any:
    """Return the loader of torch within a loader of accelerate, which starts the workers."""
    return getattr(loader, "base_dataloader", loader)


def ignoring_stop_signals(loader: Any) -> Any:
    """Let the workers of a loader ignore stop signals. A second call does nothing."""
    base = base_of(loader)
    if not isinstance(base.worker_init_fn, _StopSignalsIgnored):
        base.worker_init_fn = _StopSignalsIgnored(base.worker_init_fn)
    return loader


class _StopSignalsIgnored:
    def __init__(self, then: Callable[[int], None] | None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        leave_stop_signals_to_the_parent()
        if self._then is not None:
            self._then(worker)


def draw_as_new_workers(loader: Any) -> None:
    """Draw the random number that torch draws for new workers, if the workers of the last epoch go on.

    A resumed run starts new workers. Without the draw, its random numbers would differ from those of a run that was not
    interrupted.
    """
    if getattr(base_of(loader), "_iterator", None) is not None:
        torch.empty((), dtype=torch.int64).random_()


def end_workers(loader: Any) -> None:
    """End the workers of a loader that would stay for the next epoch."""
    base_of(loader)._iterator = None  # noqa: SLF001 - torch has no other way
