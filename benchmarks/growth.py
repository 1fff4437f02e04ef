"""Growth of the logging time of a step with the shown windows and with the size of the training.

    python -m benchmarks.growth [--quick] [--json FILE]

The real trainer trains a small model (one layer, real codebooks of 1026 entries) on one CPU thread. Every step is
logged to a hidden console and a JSONL file. The logging time is the time in `observe` plus the time from the end of the
optimizer step to the next training code, which includes the sum over ranks, the transfer, events, sinks and checks.
Each axis has rows with the checks off and on. The figure is the logging time at the largest size of the axis, the ratio
compares with the smallest size.

The exponent of the growth is the slope of log(time) over log(size) from the smallest size to the largest. An exponent
up to 0.2 counts as flat. An exponent up to 1.1 counts as linear, or less than linear where a fixed part dominates.

On the axis of codebooks all codebooks are shown. Accuracies cover every slot with a label, not only the shown windows.
The argmax over all supervised rows therefore grows with batch and sequence as the training does, and extra rows compare
the logging time with the whole step. Ranks are processes that share the cores of the machine and communicate through
gloo. The logging time includes the waiting of ranks for each other, and this axis has no target.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import HiggsAudioV2Config
from transformers.trainer_callback import PrinterCallback

from benchmarks.pipelines import hidden_pipeline, recorder_of
from benchmarks.rows import ResultRow, run_alone
from benchmarks.workload import (
    add_lora,
    random_example,
    tokens_around,
    torch_threads,
    training_arguments,
    vocabulary_of,
)
from higgs_audio_trainer.data.batch import Collator, TokenIds
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.pipeline.emit import NullPipeline
from higgs_audio_trainer.recording.settings import every
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer

FLAT, LINEAR = 0.2, 1.1  # largest exponents
PROMPT = 32  # tokens
CHECKS = (False, True)
WARM_UP_STEPS = 1
_MARKERS = (401, 402, 403)
_AUDIO, _DELAY, _PAD, _VOCABULARY_SIZE = 404, 405, 406, 512


@dataclass(frozen=True, slots=True)
class TrainingSize:
    """Size of a training and of the shown windows.

    Attributes:
        codebooks: Number of codebooks, K.
        codebooks_shown: Number of shown codebooks, from the first on.
        batch_size: Samples of a batch, B.
        samples_shown: Number of shown samples, from the first on.
        length: Tokens of a sequence, S.
        ranks: Number of processes.
    """

    codebooks: int = 8
    codebooks_shown: int = 1
    batch_size: int = 2
    samples_shown: int = 2
    length: int = 256
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class StepCost:
    """Medians over the steps of a training.

    Attributes:
        logging: Logging time of a step, in seconds.
        step: Time of the whole step, in seconds.
    """

    logging: float
    step: float


@dataclass(frozen=True, slots=True)
class SizeAxis:
    """Trainings of different size along an axis.

    Attributes:
        name: Name of the size.
        trainings: Trainings by size, in ascending order.
        largest_exponent: Target of the exponent, or None without a target.
    """

    name: str
    trainings: dict[int, TrainingSize]
    largest_exponent: float | None


AXES = (
    SizeAxis(
        "K codebooks, all shown", {k: TrainingSize(codebooks=k, codebooks_shown=k) for k in (2, 4, 8, 16)}, LINEAR
    ),
    SizeAxis("samples shown", {n: TrainingSize(samples_shown=n, batch_size=8) for n in (1, 2, 4, 8)}, LINEAR),
    SizeAxis("batch", {b: TrainingSize(batch_size=b, samples_shown=1) for b in (1, 2, 4, 8)}, FLAT),
    SizeAxis(
        "sequence length", {s: TrainingSize(length=s, batch_size=1, samples_shown=1) for s in (128, 512, 2048)}, FLAT
    ),
    SizeAxis("ranks", {n: TrainingSize(ranks=n) for n in (1, 2, 4)}, None),
)


class _TimedTrainer(HiggsAudioTrainer):
    """Trainer with measured logging time and total time of each logged step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.costs: list[StepCost] = []
        self._previous = time.perf_counter()
        self._previous_seconds = 0.0

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if not self._recorder.is_open("train"):  # the additional call at the end of an epoch
            return
        observed, began = self._recorder.seconds - self._previous_seconds, time.perf_counter()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        now = time.perf_counter()
        self.costs.append(StepCost(observed + now - began, now - self._previous))
        self._previous, self._previous_seconds = now, self._recorder.seconds


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure along every axis."""
    quiet_third_parties()
    axes = [replace(axis, trainings=dict(list(axis.trainings.items())[:2])) for axis in AXES] if quick else AXES
    return [row for axis in axes for row in _rows(axis, steps=1 if quick else 5)]


def exponent(growth: float, factor: float) -> float:
    """Return the exponent of a power law.

    Args:
        growth: Ratio of the largest and the smallest value.
        factor: Ratio of the largest and the smallest size.

    Example:
        >>> exponent(growth=4.0, factor=2.0)
        2.0
    """
    return math.log(growth) / math.log(factor)


def _rows(axis: SizeAxis, steps: int) -> Iterator[ResultRow]:
    costs = {size: measure(training, steps) for size, training in axis.trainings.items()}
    smallest, largest = min(costs), max(costs)
    against, sizes = f"size {smallest}", f"{axis.name}, {smallest} to {largest}"
    for checks in CHECKS:
        first, last = costs[smallest][checks], costs[largest][checks]
        growth = last.logging / first.logging
        slope = exponent(growth, largest / smallest)
        wanted = None if checks else axis.largest_exponent
        yield ResultRow(
            f"logging time, --diagnose {'warn' if checks else 'off'}: {sizes}",
            1000 * last.logging,
            "ms",
            f"{against} (exponent {slope:.2f})",
            growth,
            "" if wanted is None else f"exponent at most {wanted}",
            None if wanted is None else slope <= wanted,
        )
        if wanted == FLAT:
            share, at_first = last.logging / last.step, first.logging / first.step
            yield ResultRow(f"share of logging in the step: {sizes}", 100 * share, "%", against, share / at_first)


def measure(training: TrainingSize, steps: int) -> list[StepCost]:
    """Train and return the costs on rank 0 for each of `CHECKS`, over `steps` counted steps."""
    if training.ranks > 1:
        return _on_ranks(training, steps)
    with torch_threads(1):
        return [train(training, steps, checks=checks) for checks in CHECKS]


def _on_ranks(training: TrainingSize, steps: int) -> list[StepCost]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        answer, port = Path(folder) / "costs.json", _free_port()
        processes = [
            context.Process(target=_be_rank, args=(rank, port, training, steps, answer))
            for rank in range(training.ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [StepCost(**cost) for cost in json.loads(answer.read_bytes())]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _be_rank(rank: int, port: int, training: TrainingSize, steps: int, answer: Path) -> None:
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": training.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()}, MASTER_ADDR="127.0.0.1")
    quiet_third_parties()
    with torch_threads(1):
        costs = [train(training, steps, checks=checks, rank=rank) for checks in CHECKS]
    if rank == 0:
        answer.write_text(json.dumps([asdict(cost) for cost in costs]), encoding="utf-8")
    torch.distributed.destroy_process_group()


def train(training: TrainingSize, steps: int, *, checks: bool, rank: int = 0) -> StepCost:
    """Train in this process and return the costs of a step.

    Args:
        training: Size of the training.
        steps: Number of counted steps after the warm-up.
        checks: Run the checks.
        rank: Rank of this process.
    """
    ids = TokenIds(_PAD, _AUDIO, _DELAY, 1024, 1025, training.codebooks)
    frames = training.length - PROMPT - tokens_around(training.codebooks)
    data = [
        random_example(ids, prompt=PROMPT, frames=frames, markers=_MARKERS, seed=seed)
        for seed in range(training.batch_size * training.ranks)
    ]
    shown = WindowSettings(training.samples_shown, 5, tuple(range(training.codebooks_shown)), None)
    writes = rank == 0
    with (
        tempfile.TemporaryDirectory() as folder,
        hidden_pipeline(folder) if writes else nullcontext(NullPipeline()) as emit,
    ):
        trainer = _TimedTrainer(
            recorder=recorder_of(
                emit, every(1), num_codebooks=training.codebooks, shown=shown if writes else None, counts=checks
            ),
            vocabulary=vocabulary_of(ids, _MARKERS[-1]),
            text_loss_weight=1.0,
            model=add_lora(_model(training.codebooks), r=4, alpha=8, dropout=0.0),
            args=training_arguments(
                folder,
                use_cpu=True,
                per_device_train_batch_size=training.batch_size,
                max_steps=WARM_UP_STEPS + steps,
                dataloader_pin_memory=False,
                ddp_find_unused_parameters=False,
            ),
            data_collator=Collator(ids),
            train_dataset=data,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    counted = trainer.costs[WARM_UP_STEPS:]
    return StepCost(median(cost.logging for cost in counted), median(cost.step for cost in counted))


def _model(codebooks: int) -> HiggsAudioForTraining:
    torch.manual_seed(0)
    return HiggsAudioForTraining(
        HiggsAudioV2Config(
            vocab_size=_VOCABULARY_SIZE,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            num_codebooks=codebooks,
            codebook_size=1026,
            audio_token_id=_AUDIO,
            audio_delay_token_id=_DELAY,
            audio_bos_token_id=_MARKERS[0],
            bos_token_id=_PAD,
            eos_token_id=_MARKERS[-1],
            pad_token_id=_PAD,
        )
    )


if __name__ == "__main__":
    run_alone(rows, __doc__)
