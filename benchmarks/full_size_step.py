"""Cost of a training step and of logging at the full size of the architecture, on a CUDA device.

    python -m benchmarks.full_size_step [--quick] [--json FILE]

Random bfloat16 weights in the sizes of `HiggsAudioV2Config` (no download), gradient checkpointing, LoRA, clips of ten
seconds, B = 1 and 4. Without a CUDA device the benchmark has no rows.

- Forward, loss and backward, ours and native, over the same weights and batch: step time, and peak memory beyond the
  weights.
- Trainings at `--log_steps 1` in turns, with peak memory: nothing logged, logged synchronously as the trainer does
  with one transfer per step, and logged asynchronously by a thread that waits for a transfer through pinned memory on a
  stream of its own. The product has no asynchronous logging, unless this benchmark shows a benefit.
- Synchronisations in a logged step and in a step that is not logged, as `torch.cuda.set_sync_debug_mode` reports.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration
from transformers.trainer_callback import PrinterCallback

from benchmarks.asynchronous_recorder import AsynchronousRecorder, through_pinned_memory
from benchmarks.pipelines import hidden_pipeline, recorder_of
from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import ratio
from benchmarks.training_step import NATIVE, PROMPT_TOKENS
from benchmarks.workload import random_example, random_model, token_ids, training_arguments, vocabulary_of
from higgs_audio_trainer.data.batch import Collator, Example
from higgs_audio_trainer.extraction import host_transfer
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import every, never
from higgs_audio_trainer.training.model import HiggsAudioForTraining, add_lora
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer

FRAMES_PER_SECOND = 25

Logging = Literal["nothing", "synchronously", "asynchronously"]
LOGGING: tuple[Logging, ...] = ("nothing", "synchronously", "asynchronously")
CLIP_SECONDS = 10.0
_GIB = 2**30
_MOST_SYNCS = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and repetitions of the measurement.

    Attributes:
        config: Configuration of the model.
        device: "cuda", or "cpu" to test the benchmark itself.
        seconds: Length of each clip, in seconds.
        batch_sizes: Samples of a batch, B, for each measurement.
        rounds: Counted trainings of each kind, and counted steps of each forward.
        steps: Steps of each training.
    """

    config: HiggsAudioV2Config
    device: str = "cuda"
    seconds: float = CLIP_SECONDS
    batch_sizes: tuple[int, ...] = (1, 4)
    rounds: int = 5
    steps: int = 8

    def examples(self, batch_size: int) -> list[Example]:
        """Return the samples of a batch."""
        ids, frames = token_ids(self.config), round(self.seconds * FRAMES_PER_SECOND)
        return [random_example(ids, prompt=PROMPT_TOKENS, frames=frames, seed=seed) for seed in range(batch_size)]


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure on the CUDA device. Return no rows without a device."""
    if not torch.cuda.is_available():
        print("full_size_step: no CUDA device, nothing measured", file=sys.stderr)
        return []
    config = HiggsAudioV2Config(codebook_size=1026)
    return rows_of(Plan(config, batch_sizes=(1,), rounds=2, steps=3) if quick else Plan(config))


def rows_of(plan: Plan) -> list[ResultRow]:
    """Measure the sizes of a plan."""
    quiet_third_parties()
    base = random_model(plan.config, plan.device)
    model: Any = add_lora(base, r=32, alpha=64, dropout=0.0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    made: list[ResultRow] = []
    for batch_size in plan.batch_sizes:
        where = f"full size, B={batch_size}"
        if plan.device != "cuda":
            where = f"on the CPU, B={batch_size}"
        made += _forward_rows(plan, model, batch_size, where)
        made += _training_rows(plan, model, batch_size, where)
        if plan.device == "cuda":
            made += _sync_rows(plan, model, batch_size, where)
    return made


# Forward and backward, ours and native


def _forward_rows(plan: Plan, model: Any, batch_size: int, where: str) -> list[ResultRow]:
    batch = Collator(token_ids(plan.config))(plan.examples(batch_size))
    tensors = {name: part.to(plan.device) for name, part in batch.items() if name not in ("samples", "regions")}
    ways = {"ours": HiggsAudioForTraining.forward, "native": HiggsAudioV2ForConditionalGeneration.forward}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    peaks = dict.fromkeys(ways, 0.0)
    for turn in range(1 + plan.rounds):
        for way, forward in ways.items():
            seconds, peak = _step(plan.device, model, forward, tensors)
            if turn:
                taken[way].append(seconds)
                peaks[way] = max(peaks[way], peak)
    made = [
        ResultRow(
            f"forward, loss and backward, {where}",
            1000 * median(taken["ours"]),
            "ms",
            f"{NATIVE} ({1000 * median(taken['native']):.0f} ms)",
            ratio(taken["ours"], taken["native"]),
        )
    ]
    if plan.device == "cuda":
        against = f"{NATIVE} ({peaks['native'] / _GIB:.2f} GiB)"
        peak = peaks["ours"]
        made.append(
            ResultRow(
                f"peak memory of the step beyond the weights, {where}",
                peak / _GIB,
                "GiB",
                against,
                peak / peaks["native"],
            )
        )
    return made


def _step(device: str, model: Any, forward: Any, tensors: dict[str, Tensor]) -> tuple[float, float]:
    """Take a step without an optimizer. Return the seconds and the peak memory beyond the memory before, in bytes."""
    model.zero_grad(set_to_none=True)
    before = 0
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    began = time.perf_counter()
    forward(model.base_model.model, **tensors).loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return seconds, (torch.cuda.max_memory_allocated() - before if device == "cuda" else 0)


# Trainings that log each step


def _training_rows(plan: Plan, model: Any, batch_size: int, where: str) -> list[ResultRow]:
    taken: dict[Logging, list[float]] = {logging: [] for logging in LOGGING}
    if plan.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for turn in range(1 + plan.rounds):
        for logging in LOGGING:
            seconds = _training(plan, model, batch_size, logging)
            if turn:
                taken[logging].append(seconds)
    nothing = taken["nothing"]
    made = [ResultRow(f"step of a training that logs nothing, {where}", 1000 * median(nothing), "ms")]
    for logging in LOGGING[1:]:
        name = f"step at --log_steps 1, logged {logging}, {where}"
        made.append(
            ResultRow(name, 1000 * median(taken[logging]), "ms", "nothing logged", ratio(taken[logging], nothing))
        )
    if plan.device == "cuda":
        made.append(ResultRow(f"peak memory of a training, {where}", torch.cuda.max_memory_allocated() / _GIB, "GiB"))
    return made


def _training(plan: Plan, model: Any, batch_size: int, logging: Logging) -> float:
    """Train and return the seconds of a step, including the work of the device."""
    with tempfile.TemporaryDirectory() as folder, hidden_pipeline(folder) as emit:
        kind = AsynchronousRecorder if logging == "asynchronously" else Recorder
        recorder = recorder_of(emit, never if logging == "nothing" else every(1), kind=kind)
        trainer = _trainer(plan, model, batch_size, recorder, folder)
        copy = through_pinned_memory if logging == "asynchronously" else host_transfer.on_host
        began = time.perf_counter()
        with mock.patch.object(host_transfer, "on_host", copy):
            trainer.train()
            if isinstance(recorder, AsynchronousRecorder):
                recorder.wait()
        if plan.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / plan.steps


def _trainer(plan: Plan, model: Any, batch_size: int, recorder: Recorder, folder: str) -> HiggsAudioTrainer:
    trainer = HiggsAudioTrainer(
        recorder=recorder,
        vocabulary=vocabulary_of(token_ids(plan.config)),
        text_loss_weight=1.0,
        model=model,
        args=training_arguments(
            folder,
            bf16=True,
            use_cpu=plan.device == "cpu",
            per_device_train_batch_size=batch_size,
            max_steps=plan.steps,
            logging_nan_inf_filter=False,
        ),
        data_collator=Collator(token_ids(plan.config)),
        train_dataset=plan.examples(batch_size),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


# Synchronisations


def _sync_rows(plan: Plan, model: Any, batch_size: int, where: str) -> list[ResultRow]:
    logged, other = (median(_synchronisations(plan, model, batch_size, logs=logs)) for logs in (True, False))
    name, more = f"synchronisations of a step not logged, {where}", logged - other
    return [
        ResultRow(name, other, "", target="0", holds=other == 0),
        ResultRow(
            f"additional synchronisations of a logged step, {where}",
            more,
            "",
            target="at most 1",
            holds=more <= _MOST_SYNCS,
        ),
    ]


def _synchronisations(plan: Plan, model: Any, batch_size: int, *, logs: bool) -> Sequence[int]:
    """Return how often each step makes the host wait for the device, without the first and the last step."""
    counts: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        hidden_pipeline(folder) as emit,
        warnings.catch_warnings(record=True) as seen,
    ):
        warnings.simplefilter("always")

        def counted(_step: int) -> bool:
            counts.append(sum("synchron" in str(one.message) for one in seen))
            return logs

        trainer = _trainer(plan, model, batch_size, recorder_of(emit, counted), folder)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [after - before for before, after in pairwise(counts[1:])]


if __name__ == "__main__":
    run_alone(rows, __doc__)
