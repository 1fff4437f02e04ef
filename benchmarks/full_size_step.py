"""The full-size architecture on a CUDA device: step time, peak memory, and what a due step makes the host wait for.

    python -m benchmarks.full_size_step [--quick] [--json FILE]

Random weights in bfloat16 (`HiggsAudioV2Config` has the sizes; nothing is downloaded), gradient checkpointing, LoRA,
clips of ten seconds, B = 1 and 4. Without a CUDA device there is nothing to measure and there are no rows.

- Forward, loss and backward, ours and native, over the same weights and batch: time by events of the device, and peak
  memory beyond the weights.
- Trainings at `--log_steps 1` by turns, with their peak memory: nothing logged; logged as the trainer does it, which
  waits for one transfer; and logged later, by a thread that waits for a transfer through pinned memory on a stream of
  its own. The last one is not in the product: it goes there if it wins here.
- Synchronisations, as `torch.cuda.set_sync_debug_mode` reports them, of a step that is due and of one that is not.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration, TrainingArguments
from transformers.trainer_callback import PrinterCallback

import sinks
from benchmarks.rows import Row, run_alone
from benchmarks.timing import ratio
from higgs_audio_trainer.data.batch import Collator, Example, PreparedSample, TokenIds, Vocabulary, build_example
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.extraction import host_transfer
from higgs_audio_trainer.extraction.extraction import Extraction
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Telemetry, due_every, never_due
from higgs_audio_trainer.training.model import HiggsAudioForTraining, add_lora
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from sinks.terminal.screen import Screen

FRAMES_PER_SECOND = 25
PROMPT_TOKENS = 60
TEXT_TOKENS = 128_000  # below the special tokens
END_OF_TURN = 128_009

Logging = Literal["nothing", "as it is", "later"]
LOGGING: tuple[Logging, ...] = ("nothing", "as it is", "later")
CLIP_SECONDS = 10.0
_GIB = 2**30
_MOST_SYNCS = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        config: of the model.
        device: `cuda`; `cpu` to see that all of this runs.
        seconds: of each clip.
        batch_sizes: B.
        rounds: of each kind of training, and steps of each kind of forward.
        steps: of each training.
    """

    config: HiggsAudioV2Config
    device: str = "cuda"
    seconds: float = CLIP_SECONDS
    batch_sizes: tuple[int, ...] = (1, 4)
    rounds: int = 5
    steps: int = 8


def rows(quick: bool = False) -> list[Row]:
    """Measure on the CUDA device; no rows where there is none."""
    if not torch.cuda.is_available():
        print("full_size_step: no CUDA device here, nothing measured", file=sys.stderr)
        return []
    config = HiggsAudioV2Config(codebook_size=1026)
    return rows_of(Plan(config, batch_sizes=(1,), rounds=2, steps=3) if quick else Plan(config))


def rows_of(plan: Plan) -> list[Row]:
    """Measure what a plan says."""
    quiet_third_parties()
    base = random_model(plan.config, plan.device)
    model: Any = add_lora(base, r=32, alpha=64, dropout=0.0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    made: list[Row] = []
    for batch_size in plan.batch_sizes:
        where = f"full size, B={batch_size}"
        if plan.device != "cuda":
            where = f"on the CPU, B={batch_size}"
        made += _forward_rows(plan, model, batch_size, where)
        made += _training_rows(plan, model, batch_size, where)
        if plan.device == "cuda":
            made += _sync_rows(plan, model, batch_size, where)
    return made


# Models and samples


def random_example(ids: TokenIds, seconds: float, seed: int) -> Example:
    """Make a sample of random text and codes: a prompt, then a supervised clip."""
    numbers = np.random.default_rng(seed)
    segments = (
        TokenSegment(numbers.integers(0, TEXT_TOKENS, PROMPT_TOKENS), supervised=False),
        TokenSegment(np.array([128_013]), supervised=True),
        TokenSegment(None, supervised=True),
        TokenSegment(np.array([128_012, END_OF_TURN]), supervised=True),
    )
    codes = numbers.integers(0, ids.stream_bos, (ids.num_codebooks, round(seconds * FRAMES_PER_SECOND)))
    return build_example(PreparedSample(f"random-{seed}", segments, ()), [codes], ids)


def vocabulary_of(ids: TokenIds) -> Vocabulary:
    """Name the tokens that end a turn, begin and end a stream, and stand for audio."""
    return Vocabulary((END_OF_TURN,), ids.stream_bos, ids.stream_eos, (ids.audio, ids.audio_delay))


def random_model(config: HiggsAudioV2Config, device: str) -> HiggsAudioForTraining:
    """Make a model with random weights in bfloat16, on the device from the start."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return HiggsAudioForTraining(config)
    finally:
        torch.set_default_dtype(torch.float32)


def token_ids(config: HiggsAudioV2Config) -> TokenIds:
    """Return the ids that a batch is made with."""
    return TokenIds(128_001, config.audio_token_id, config.audio_delay_token_id, 1024, 1025, config.num_codebooks)


# Forward and backward, ours and native


def _forward_rows(plan: Plan, model: Any, batch_size: int, where: str) -> list[Row]:
    ids = token_ids(plan.config)
    batch = Collator(ids)([random_example(ids, plan.seconds, seed) for seed in range(batch_size)])
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
        Row(
            f"forward, loss and backward, {where}",
            1000 * median(taken["ours"]),
            "ms",
            f"the native forward and its loss ({1000 * median(taken['native']):.0f} ms)",
            ratio(taken["ours"], taken["native"]),
        )
    ]
    if plan.device == "cuda":
        against = f"the native forward and its loss ({peaks['native'] / _GIB:.2f} GiB)"
        peak = peaks["ours"]
        made.append(
            Row(f"peak memory of it beyond the weights, {where}", peak / _GIB, "GiB", against, peak / peaks["native"])
        )
    return made


def _step(device: str, model: Any, forward: Any, tensors: dict[str, Tensor]) -> tuple[float, float]:
    """Take a step without an optimizer; return its seconds and the bytes that it needed beyond what was held."""
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


class EmitsLater(HiggsAudioTrainer):
    """Hands a due step to a thread, which waits for the copy and emits: the training goes on meanwhile.

    Only for the comparison: the numbers of steps may be those of a later one.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None

    def _emit_step(self, extraction: Extraction, sums: Tensor, *args: Any) -> None:
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()
            ready.record()
        emit = super()._emit_step

        def work() -> None:
            if self._stream is None or ready is None:
                emit(extraction, sums, *args)
                return
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                emit(extraction, sums, *args)

        self._pending.append(self._thread.submit(work))

    def wait(self) -> None:
        """Wait until all is emitted; what failed is raised."""
        for pending in self._pending:
            pending.result()
        self._thread.shutdown()


def _through_pinned_memory(packed: Tensor) -> Tensor:
    host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=packed.is_cuda)
    host.copy_(packed, non_blocking=True)
    if packed.is_cuda:
        torch.cuda.current_stream().synchronize()
    return host


def _training_rows(plan: Plan, model: Any, batch_size: int, where: str) -> list[Row]:
    taken: dict[Logging, list[float]] = {logging: [] for logging in LOGGING}
    if plan.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for turn in range(1 + plan.rounds):
        for logging in LOGGING:
            seconds = _training(plan, model, batch_size, logging)
            if turn:
                taken[logging].append(seconds)
    nothing = taken["nothing"]
    made = [Row(f"step of a training that logs nothing, {where}", 1000 * median(nothing), "ms")]
    for logging in LOGGING[1:]:
        name = f"step at --log_steps 1, logged {logging}, {where}"
        made.append(Row(name, 1000 * median(taken[logging]), "ms", "nothing logged", ratio(taken[logging], nothing)))
    if plan.device == "cuda":
        made.append(Row(f"peak memory of a training, {where}", torch.cuda.max_memory_allocated() / _GIB, "GiB"))
    return made


def _training(plan: Plan, model: Any, batch_size: int, logging: Logging) -> float:
    """Train; return the seconds of a step, the device's work included."""
    with tempfile.TemporaryDirectory() as folder, _telemetry(plan, folder, logging != "nothing") as telemetry:
        trainer = _trainer(plan, model, batch_size, telemetry, folder, EmitsLater if logging == "later" else None)
        copy = _through_pinned_memory if logging == "later" else host_transfer.on_host
        began = time.perf_counter()
        with mock.patch.object(host_transfer, "on_host", copy):
            trainer.train()
            if isinstance(trainer, EmitsLater):
                trainer.wait()
        if plan.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / plan.steps


@contextmanager
def _telemetry(plan: Plan, folder: str, logs: bool) -> Iterator[Telemetry]:
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        screen = Screen(nowhere, nowhere)
        context = sinks.SinkContext(folder, "r", 0, 0, screen, screen.note)
        emit = Pipeline(sinks.build("console,jsonl", context), run_id="r")
        vocabulary = vocabulary_of(token_ids(plan.config))
        yield Telemetry(
            emit,
            due_every(1) if logs else never_due,
            evaluations=False,
            shown=WindowSettings(2, 5, (0,), None),
            vocabulary=vocabulary,
            counts=True,
            watch=LiveChecks(emit, fails=False) if logs else None,
        )
        screen.close()


def _trainer(
    plan: Plan, model: Any, batch_size: int, telemetry: Telemetry, folder: str, kind: type[EmitsLater] | None
) -> HiggsAudioTrainer:
    ids = token_ids(plan.config)
    trainer = (kind or HiggsAudioTrainer)(
        telemetry=telemetry,
        text_loss_weight=1.0,
        model=model,
        args=TrainingArguments(
            folder,
            bf16=True,
            use_cpu=plan.device == "cpu",
            per_device_train_batch_size=batch_size,
            max_steps=plan.steps,
            remove_unused_columns=False,
            label_names=["labels"],
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            disable_tqdm=True,
        ),
        data_collator=Collator(ids),
        train_dataset=[random_example(ids, plan.seconds, seed) for seed in range(batch_size)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


# Synchronisations


def _sync_rows(plan: Plan, model: Any, batch_size: int, where: str) -> list[Row]:
    due, undue = (_synchronisations(plan, model, batch_size, logs=logs) for logs in (True, False))
    more = median(due) - median(undue)
    return [
        Row(f"synchronisations of a step not due, {where}", median(undue), "", "", None, "0", median(undue) == 0),
        Row(f"synchronisations more in a due step, {where}", more, "", "", None, "at most 1", more <= _MOST_SYNCS),
    ]


def _synchronisations(plan: Plan, model: Any, batch_size: int, *, logs: bool) -> Sequence[int]:
    """Return how often each step but the first and the last made the host wait for the device."""
    counts: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _telemetry(plan, folder, logs) as telemetry,
        warnings.catch_warnings(record=True) as seen,
    ):
        warnings.simplefilter("always")

        def counted(step: int) -> bool:
            counts.append(sum("synchron" in str(one.message) for one in seen))
            return telemetry.is_due(step)

        trainer = _trainer(plan, model, batch_size, replace(telemetry, is_due=counted), folder, None)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [after - before for before, after in pairwise(counts[1:])]


if __name__ == "__main__":
    run_alone(rows, __doc__ or "")
