"""How what a due step spends on logging grows, with what is shown and with what is trained.

    python -m benchmarks.growth [--quick] [--json FILE]

A small model (one layer, real codebooks of 1026 entries) on one thread of the CPU is trained by the real trainer; every
step is due and goes to a console that nobody sees and a JSONL file. What is counted is the time in `observe`, and from
the end of the optimizer step to where training goes on: the sum over the ranks, the transfer, events, sinks and checks.
A row for each axis, with the checks off and on: figure is the cost at the last size of the axis, ratio that to the cost
at the first.

How a cost grows is told by its exponent, the slope of its logarithm over that of the size, from the first size to the
last. At most 0.2 is flat; at most 1.1 is linear, or less where the fixed part of the cost outweighs.

With the number of codebooks all of them are shown. The accuracies of a step are of every slot that has a target, not of
what is shown; so the argmax of all supervised rows grows with batch and sequence as the training itself does, and rows
of their own hold the cost against the whole step. Ranks are processes that share the machine's cores, joined by gloo;
what they wait for each other is in the cost, and there is no target.
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import HiggsAudioV2Config, TrainingArguments
from transformers.trainer_callback import PrinterCallback

import sinks
from benchmarks.examples import example, torch_threads
from benchmarks.rows import Row, run_alone
from higgs_audio_trainer.data.batch import Collator, TokenIds, Vocabulary
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Telemetry, due_every
from higgs_audio_trainer.training.model import HiggsAudioForTraining, add_lora
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from sinks.terminal.screen import Screen

FLAT, LINEAR = 0.2, 1.1  # largest exponents
PROMPT = 32  # tokens
CHECKS = (False, True)
_MARKERS = (401, 402, 403)
_AUDIO, _DELAY, _PAD, _VOCABULARY_SIZE = 404, 405, 406, 512


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, and what of it is shown.

    Attributes:
        codebooks: K.
        codebooks_shown: the first of them.
        batch_size: B.
        samples_shown: the first of them.
        length: S.
        ranks: processes.
    """

    codebooks: int = 8
    codebooks_shown: int = 1
    batch_size: int = 2
    samples_shown: int = 2
    length: int = 256
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the steps of a training; seconds."""

    logging: float
    step: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Trainings that differ in one size.

    Attributes:
        name: of the size.
        trainings: by the size, which rises.
        largest_exponent: that holds; None where there is no target.
    """

    name: str
    trainings: dict[int, Training]
    largest_exponent: float | None


AXES = (
    Axis(
        "K codebooks, all shown",
        {size: Training(codebooks=size, codebooks_shown=size) for size in (2, 4, 8, 16)},
        LINEAR,
    ),
    Axis("samples shown", {size: Training(samples_shown=size, batch_size=8) for size in (1, 2, 4, 8)}, LINEAR),
    Axis("batch", {size: Training(batch_size=size, samples_shown=1) for size in (1, 2, 4, 8)}, FLAT),
    Axis(
        "sequence length",
        {size: Training(length=size, batch_size=1, samples_shown=1) for size in (128, 512, 2048)},
        FLAT,
    ),
    Axis("ranks", {size: Training(ranks=size) for size in (1, 2, 4)}, None),
)


class _Timed(HiggsAudioTrainer):
    """Takes the time that each due step spends on logging, and that of the step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.costs: list[Cost] = []
        self._previous = time.perf_counter()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._extraction is None:  # at the end of an epoch once more
            return
        observed, began = self._extraction.seconds, time.perf_counter()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        now = time.perf_counter()
        self.costs.append(Cost(observed + now - began, now - self._previous))
        self._previous = now


def rows(quick: bool = False) -> list[Row]:
    """Measure along every axis."""
    quiet_third_parties()
    warm_up, steps = (1, 1) if quick else (1, 5)
    return [row for axis in AXES for row in _rows(_beginning(axis) if quick else axis, warm_up, steps)]


def _beginning(axis: Axis) -> Axis:
    return replace(axis, trainings=dict(list(axis.trainings.items())[:2]))


def _rows(axis: Axis, warm_up: int, steps: int) -> Iterator[Row]:
    costs = {size: measure(training, warm_up, steps) for size, training in axis.trainings.items()}
    smallest, largest = min(costs), max(costs)
    against, sizes = f"itself at {smallest}", f"{axis.name}, {smallest} to {largest}"
    for checks in CHECKS:
        first, last = costs[smallest][checks], costs[largest][checks]
        growth = last.logging / first.logging
        slope = math.log(growth) / math.log(largest / smallest)
        wanted = None if checks else axis.largest_exponent
        yield Row(
            f"logging of a due step, --diagnose {'warn' if checks else 'off'}: {sizes}",
            1000 * last.logging,
            "ms",
            f"{against}; exponent {slope:.2f}",
            growth,
            "" if wanted is None else f"exponent at most {wanted}",
            None if wanted is None else slope <= wanted,
        )
        if wanted == FLAT:
            share, at_first = last.logging / last.step, first.logging / first.step
            yield Row(f"the same as a share of its step: {sizes}", 100 * share, "%", against, share / at_first)


def measure(training: Training, warm_up: int, steps: int) -> list[Cost]:
    """Train so many steps after some that warm up, with the checks off, then with them on; costs are rank 0's."""
    if training.ranks > 1:
        return _on_ranks(training, warm_up, steps)
    with torch_threads(1):
        return [train(training, warm_up, steps, checks=checks) for checks in CHECKS]


def _on_ranks(training: Training, warm_up: int, steps: int) -> list[Cost]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        answer, port = Path(folder) / "costs.json", _free_port()
        processes = [
            context.Process(target=_be_rank, args=(rank, port, training, warm_up, steps, answer))
            for rank in range(training.ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [Cost(**cost) for cost in json.loads(answer.read_bytes())]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _be_rank(rank: int, port: int, training: Training, warm_up: int, steps: int, answer: Path) -> None:
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": training.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()}, MASTER_ADDR="127.0.0.1")
    quiet_third_parties()
    with torch_threads(1):
        costs = [train(training, warm_up, steps, checks=checks, rank=rank) for checks in CHECKS]
    if rank == 0:
        answer.write_text(json.dumps([asdict(cost) for cost in costs]), encoding="utf-8")
    torch.distributed.destroy_process_group()


def train(training: Training, warm_up: int, steps: int, *, checks: bool, rank: int = 0) -> Cost:
    """Train in this process, as one of the ranks."""
    ids = TokenIds(_PAD, _AUDIO, _DELAY, 1024, 1025, training.codebooks)
    vocabulary = Vocabulary(_MARKERS[-1:], ids.stream_bos, ids.stream_eos, (ids.audio, ids.audio_delay))
    frames = training.length - PROMPT - len(_MARKERS) - num_stream_frames(0, training.codebooks)
    data = [
        example(ids, length=training.length, frames=frames, markers=_MARKERS, seed=seed)
        for seed in range(training.batch_size * training.ranks)
    ]
    shown = WindowSettings(training.samples_shown, 5, tuple(range(training.codebooks_shown)), None)
    with tempfile.TemporaryDirectory() as folder, _emit_to(Path(folder), rank) as emit:
        trainer = _Timed(
            telemetry=Telemetry(
                emit,
                due_every(1),
                evaluations=False,
                shown=shown if rank == 0 else None,
                vocabulary=vocabulary,
                counts=checks,
                watch=LiveChecks(emit, fails=False) if checks and rank == 0 else None,
            ),
            text_loss_weight=1.0,
            model=add_lora(_model(training.codebooks), r=4, alpha=8, dropout=0.0),
            args=TrainingArguments(
                folder,
                use_cpu=True,
                per_device_train_batch_size=training.batch_size,
                max_steps=warm_up + steps,
                remove_unused_columns=False,
                label_names=["labels"],
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                ddp_find_unused_parameters=False,
            ),
            data_collator=Collator(ids),
            train_dataset=data,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    counted = trainer.costs[warm_up:]
    return Cost(median(cost.logging for cost in counted), median(cost.step for cost in counted))


@contextmanager
def _emit_to(folder: Path, rank: int) -> Iterator[Emit]:
    if rank != 0:
        yield NullPipeline()
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        screen = Screen(nowhere, nowhere)
        context = sinks.SinkContext(str(folder), "r", 0, 0, screen, screen.note)
        yield Pipeline(sinks.build("console,jsonl", context), run_id="r")
        screen.close()


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
