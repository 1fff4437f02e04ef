"""Padding of random, grouped and budgeted batches, and the speed of the tiny model on random and on grouped batches.

    python -m benchmarks.batches [--quick] [--json FILE]

Samples are speech of 1 to 20 s, log-normal with a median of 5 s. A share is the part of the positions that is padding.
With several ranks, a step waits for the longest batch of a turn, and the wait counts as padding.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import interleaved, ratio
from benchmarks.workload import random_example, token_ids, torch_threads
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data.batch import Collator
from higgs_audio_trainer.data.clips import FRAME_RATE_HZ
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.sampler import BudgetedBatches, LengthGroupedOrder
from sinks.terminal.words import count_of

THREADS = 2
_MOST = 0.05
_SHORTEST_S, _LONGEST_S = 1, 20
_PROMPT = 60  # tokens, beside those of the spoken text
_TOKENS_A_SECOND = 3.5  # of spoken text
_SECONDS_A_SAMPLE = 6  # about the mean; the budget for batches of about B samples is 6 B seconds


def speech(samples: int) -> tuple[list[float], list[int]]:
    """Return the seconds and the positions of samples of speech."""
    numbers = np.random.default_rng(0)
    drawn = np.exp(numbers.normal(math.log(5), 0.7, 4 * samples))
    seconds = drawn[(drawn >= _SHORTEST_S) & (drawn <= _LONGEST_S)][:samples]
    return seconds.tolist(), [round(_PROMPT + (_TOKENS_A_SECOND + FRAME_RATE_HZ) * one) for one in seconds]


def waste(batches: Sequence[Sequence[int]], lengths: Sequence[int], ranks: int = 1) -> float:
    """Return the share of positions that are padding, or a wait for the longest batch of the ranks' turn."""
    paid = 0
    for start in range(0, len(batches), ranks):
        turn = batches[start : start + ranks]
        paid += ranks * max(len(batch) * max(lengths[index] for index in batch) for batch in turn)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / paid


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure the padding, then the speed."""
    quiet_third_parties()
    samples = 2_000 if quick else 20_000
    with torch_threads(THREADS):
        return [*_padding_rows(samples), _speed_row(8 if quick else 48, 1 if quick else 2)]


def _padding_rows(samples: int) -> Iterator[ResultRow]:
    seconds, lengths = speech(samples)
    for size in (16, 8):
        for ranks in (1, 64):
            random = _slices(torch.randperm(samples, generator=torch.Generator().manual_seed(0)).tolist(), size)
            grouped = _slices(list(LengthGroupedOrder(size * ranks, lengths, seed=0)), size)
            budget = list(BudgetedBatches(lengths, seconds, _SECONDS_A_SAMPLE * size, seed=0))
            rest = waste(random, lengths, ranks)
            for name, batches in (("group_by_length", grouped), ("max_batch_seconds", budget)):
                share = waste(batches, lengths, ranks)
                has_target = name == "group_by_length" and ranks == 1
                yield ResultRow(
                    f"padding, {name}, B={size}, {count_of(ranks, 'rank')}",
                    100 * share,
                    "% of positions",
                    f"random batches, {100 * rest:.0f} %",
                    share / rest,
                    "figure at most 5" if has_target else "",
                    share <= _MOST if has_target else None,
                )


def _slices(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _speed_row(samples: int, rounds: int) -> ResultRow:
    seconds, lengths = speech(samples)
    with tempfile.TemporaryDirectory() as folder:
        folder_of_model, _ = write_tiny(Path(folder))
        checkpoint = open_checkpoint(str(folder_of_model))
        model = HiggsAudioForTraining.from_pretrained(folder_of_model)
    ids = checkpoint.ids
    examples = [
        random_example(
            token_ids(checkpoint.config),
            prompt=round(_PROMPT + _TOKENS_A_SECOND * one),
            frames=round(FRAME_RATE_HZ * one),
            seed=index,
            markers=(5, 6, 7),
        )
        for index, one in enumerate(seconds)
    ]
    collate = Collator(ids)

    def epoch(order: Sequence[int]) -> None:
        for indices in _slices(order, 8):
            batch = collate([examples[index] for index in indices])
            inputs = {name: value for name, value in batch.items() if name not in ("samples", "regions")}
            model(**inputs).loss.backward()
            model.zero_grad()

    calls: dict[str, Callable[[], object]] = {
        "random": partial(epoch, list(range(samples))),
        "grouped": partial(epoch, list(LengthGroupedOrder(8, lengths, seed=0))),
    }
    taken = interleaved(calls, rounds=rounds)
    rate = samples / median(taken["grouped"])
    gain = ratio(taken["random"], taken["grouped"])
    return ResultRow("tiny model on group_by_length, B=8", rate, "samples/s", "random batches", gain)


if __name__ == "__main__":
    run_alone(rows, __doc__)
