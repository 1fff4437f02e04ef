"""Trainings at full size that log each step, beside trainings that log nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest import mock

from transformers import HiggsAudioV2Config, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from benchmarks.asynchronous_recorder import AsynchronousRecorder, through_pinned_memory
from benchmarks.device.full_size import FullSize
from benchmarks.device.plan import GIB, Plan
from benchmarks.pipelines import hidden_pipeline, recorder_of
from benchmarks.rows import ResultRow
from benchmarks.timing import ratio
from benchmarks.workload import token_ids, vocabulary_of
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.batch import Collator
from higgs_audio_trainer.extraction import host_transfer
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import every, never
from higgs_audio_trainer.training.arguments import training_arguments
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer

Logging = Literal["nothing", "synchronously", "asynchronously"]
LOGGING: tuple[Logging, ...] = ("nothing", "synchronously", "asynchronously")
_WARM_UP_STEPS = 2
_MOST = 1.01
_BATCH_SIZE = 4


def logged(plan: Plan) -> Iterator[ResultRow]:
    """Compare trainings in turns: nothing logged, logged by the recorder, logged by a thread with a stream of its own.

    The product has no asynchronous logging, unless this benchmark shows a benefit.
    """
    model = FullSize(plan)
    model.set_checkpointing(on=True)
    batch_size = min(_BATCH_SIZE, max(plan.batch_sizes))
    taken: dict[Logging, list[float]] = {logging: [] for logging in LOGGING}
    peak, round_s = 0, 0.0
    for turn in range(1 + plan.rounds):
        if turn > 1 and not plan.has_time(round_s):
            break
        began = time.monotonic()
        for logging in LOGGING:
            seconds, used = training(plan, model.model, batch_size, logging)
            if turn:
                taken[logging].append(seconds)
                peak = max(peak, used)
        round_s = time.monotonic() - began
    nothing = taken["nothing"]
    where = f"B={batch_size}, checkpointing on, {len(nothing)} rounds"
    yield ResultRow(f"step of a training, undue, {where}", 1000 * median(nothing), "ms")
    for logging in LOGGING[1:]:
        times = ratio(taken[logging], nothing)
        target = f"<= {_MOST}" if logging == "synchronously" else ""
        holds = times <= _MOST if target else None
        name = f"step of a training, due, with checks, logged {logging}, {where}"
        yield ResultRow(name, 1000 * median(taken[logging]), "ms", "undue step", times, target, holds)
    yield ResultRow(f"peak memory of a training, {where}", peak / GIB, "GiB")


def training(plan: Plan, model: Any, batch_size: int, logging: Logging) -> tuple[float, int]:
    """Train. Return the seconds of a step, including the work of the device, and the peak memory in bytes."""
    with TemporaryDirectory() as folder, hidden_pipeline(folder) as emit:
        kind = AsynchronousRecorder if logging == "asynchronously" else Recorder
        recorder = recorder_of(emit, never if logging == "nothing" else every(1), kind=kind)
        steps = _WARM_UP_STEPS + plan.steps
        trainer = trainer_of(plan, plan.full, model, batch_size, recorder, folder, steps)
        clock = _Clock(plan)
        trainer.add_callback(clock)
        copy = through_pinned_memory if logging == "asynchronously" else host_transfer.on_host

        def train() -> None:
            trainer.train()
            if isinstance(recorder, AsynchronousRecorder):
                recorder.wait()

        with mock.patch.object(host_transfer, "on_host", copy):
            _, peak = plan.measured(train)
        return (time.perf_counter() - clock.began) / plan.steps, peak


class _Clock(TrainerCallback):
    """Takes the time of the device at the end of the warm-up."""

    def __init__(self, plan: Plan) -> None:
        self.began = 0.0
        self._plan = plan

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Wait for the device after the last step of the warm-up."""
        if state.global_step == _WARM_UP_STEPS:
            self._plan.synchronize()
            self.began = time.perf_counter()


def trainer_of(
    plan: Plan,
    config: HiggsAudioV2Config,
    model: Any,
    batch_size: int,
    recorder: Recorder,
    folder: str,
    steps: int,
) -> HiggsAudioTrainer:
    """Return a trainer of random clips, with the arguments of a run of the command line."""
    ids = token_ids(config)
    extra = {"save_strategy": "no", **({} if plan.on_cuda else {"use_cpu": True})}
    settings = TrainSettings(
        train_manifest="none",
        output_dir=folder,
        batch_size=batch_size,
        grad_accum=1,
        max_steps=steps,
        extra=extra,
    )
    trainer = HiggsAudioTrainer(
        recorder=recorder,
        vocabulary=vocabulary_of(ids),
        text_loss_weight=1.0,
        model=model,
        args=training_arguments(settings),
        data_collator=Collator(ids),
        train_dataset=plan.examples(ids, batch_size) * steps,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
