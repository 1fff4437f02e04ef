"""Forward, loss and backward at the full size of the architecture, beside the native forward and loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import HiggsAudioV2ForConditionalGeneration

from benchmarks.device.model_flops import step_flops
from benchmarks.device.plan import GIB, Plan
from benchmarks.rows import ResultRow
from benchmarks.timing import ratio
from benchmarks.workload import add_lora, random_model, token_ids
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.batch import FOR_THE_LOG, Collator, TokenIds
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.families.tts3.model import HiggsTts3
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.planning.estimate import Load, estimate
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties

NATIVE = "native forward and loss"
NATIVE_ENTRIES = ("input_ids", "attention_mask", "labels", "audio_input_ids", "audio_input_ids_mask", "audio_labels")
LORA_RANK = 16
_ESTIMATE_ERROR = 0.25
_PRODUCTS = 10  # of matrices, for one measurement of the peak


@dataclass(slots=True)
class Taken:
    """Measurements of one kind of step: seconds of each round, and the largest memory in bytes."""

    seconds: list[float]
    peak: int = 0


def _with_lora(base: Any) -> Any:
    return add_lora(base, r=LORA_RANK, alpha=2 * LORA_RANK, dropout=0.0)


class FullSize:
    """Model with random bfloat16 weights and adapters, made on the device, and steps without an optimizer.

    Args:
        plan: Sizes and device.
        with_method: Returns the base model with what is trained: LoRA of rank 16 by default.
    """

    sizes: Any  # configuration whose operations count
    ids: TokenIds

    def __init__(self, plan: Plan, with_method: Callable[[Any], Any] = _with_lora) -> None:
        quiet_third_parties()
        self._plan = plan
        self.model: Any = with_method(self._make(plan)).train()
        self.base: Any = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self.weights = torch.cuda.memory_allocated() if plan.on_cuda else 0

    def _make(self, plan: Plan) -> Any:
        """Return the model with random weights, and set sizes and token ids."""
        self.sizes, self.ids = plan.full, token_ids(plan.full)
        return random_model(HiggsAudioForTraining, plan.full, plan.device)

    def set_checkpointing(self, *, on: bool) -> None:
        """Turn gradient checkpointing on or off."""
        if on:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()

    def batch(self, batch_size: int) -> tuple[dict[str, Any], float]:
        """Return the model's inputs on the device, and the operations of a step."""
        batch = Collator(self.ids)(self._plan.examples(self.ids, batch_size))
        flops = step_flops(self.sizes, batch, LORA_RANK)
        return {
            name: on_device(part, self._plan.device) for name, part in batch.items() if name not in FOR_THE_LOG
        }, flops

    def step(self, forward: Callable[..., Any], batch: dict[str, Any]) -> float:
        """Make forward, loss and backward under autocast to bfloat16, as the trainer does, and return the loss."""
        self.model.zero_grad(set_to_none=True)
        with torch.autocast(self._plan.device, dtype=torch.bfloat16):
            loss = forward(**batch).loss
        loss.backward()
        return float(loss.detach())

    def native(self, **batch: Any) -> Any:
        """Return the output of the native forward and loss."""
        given = {name: batch[name] for name in NATIVE_ENTRIES}
        return HiggsAudioV2ForConditionalGeneration.forward(self.base, **given)

    def compare(self, ways: dict[str, Callable[..., Any]], batch: dict[str, Any]) -> dict[str, Taken | None]:
        """Take steps in turns after a warm-up. A way that needs more memory than the device has is None."""
        taken: dict[str, Taken | None] = {way: Taken([]) for way in ways}
        for turn in range(1 + self._plan.rounds):
            for way, forward in ways.items():
                own = taken[way]
                if own is None:
                    continue
                try:
                    seconds, peak = self._plan.measured(lambda forward=forward: self.step(forward, batch))  # type: ignore[misc]
                except torch.OutOfMemoryError:
                    taken[way] = None
                    self.model.zero_grad(set_to_none=True)
                    self._plan.free()
                    continue
                if turn:
                    own.seconds.append(seconds)
                    own.peak = max(own.peak, peak)
        return taken


def on_device(value: Any, device: str) -> Any:
    """Return a tensor, or a dictionary of tensors, on a device."""
    if isinstance(value, dict):
        return {name: on_device(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def measured_peak(plan: Plan) -> float:
    """Return the operations per second of large bfloat16 matrix products, the median over the rounds."""
    one, other = torch.randn(2, plan.matrix, plan.matrix, device=plan.device, dtype=torch.bfloat16)
    rounds = [plan.measured(lambda: [one @ other for _ in range(_PRODUCTS)])[0] for _ in range(1 + plan.rounds)]
    return _PRODUCTS * 2 * plan.matrix**3 / median(rounds[1:])


class FullSizeTts3(FullSize):
    """Higgs TTS 3 with random bfloat16 weights. "Native" are the layers of transformers and logits at all positions."""

    def _make(self, plan: Plan) -> Any:
        config = plan.tts3
        text = config.text_config
        self.sizes = SimpleNamespace(**text.to_dict(), num_codebooks=config.num_codebooks, codebook_size=1026)
        placeholder = config.audio_token_id
        self.ids = TokenIds(
            text.vocab_size - 1, placeholder, placeholder, 1024, 1025, config.num_codebooks, 0, reference_eos=False
        )
        model = random_model(HiggsTts3, config, plan.device)
        model.tie_weights()
        model.text_loss_weight = 0.0
        return model

    def native(self, **batch: Any) -> Any:
        """Return the loss over the logits, [B, S, K, C], of all positions of the padded batch."""
        hidden = self.base(**{name: batch[name] for name in (*NATIVE_ENTRIES[:2], *NATIVE_ENTRIES[3:5])})
        logits = self.base.audio_logits(hidden)
        labels = torch.full(logits.shape[:3], IGNORE_INDEX, device=hidden.device)
        is_frame = batch["input_ids"] == self.ids.audio
        labels[is_frame] = batch["audio_labels"][batch["audio_input_ids_mask"]]
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 2).float(), labels[:, 1:].flatten())
        return SimpleNamespace(loss=loss)


def full_size(plan: Plan) -> Iterator[ResultRow]:
    """Measure steps of Higgs Audio v2."""
    size = plan.matrix
    peak = measured_peak(plan)
    yield ResultRow(f"bfloat16 matrix product, {size} x {size} x {size}", peak / 1e12, "TFLOP/s")
    yield from _measured(plan, FullSize, peak, "")


def full_size_tts3(plan: Plan) -> Iterator[ResultRow]:
    """Measure steps of Higgs TTS 3."""
    yield from _measured(plan, FullSizeTts3, measured_peak(plan), "TTS 3, ")


def _measured(plan: Plan, kind: type[FullSize], peak: float, name: str) -> Iterator[ResultRow]:
    """Measure steps of each batch size, first without gradient checkpointing."""
    began = time.perf_counter()
    model = kind(plan)
    plan.synchronize()
    yield ResultRow(f"{name}making the model on the device", time.perf_counter() - began, "s")
    yield ResultRow(f"{name}memory of weights and adapters", model.weights / GIB, "GiB")
    took = 0.0
    for checkpointing in plan.checkpointing:
        model.set_checkpointing(on=checkpointing)
        for batch_size in plan.batch_sizes:
            where = (
                f"{name}B={batch_size}, {plan.clip_seconds:g} s clips, checkpointing {'on' if checkpointing else 'off'}"
            )
            if not plan.has_time(2 * took):
                yield ResultRow(f"step, {where}", None, "skipped", against="the time is used up")
                continue
            started = time.monotonic()
            batch, flops = model.batch(batch_size)
            taken = model.compare({"ours": model.base.forward, "native": model.native}, batch)
            seconds_of_audio = batch_size * plan.clip_seconds
            if (own := taken["ours"]) is not None and own.peak:
                yield estimated(plan, model, where, batch_size, checkpointing=checkpointing, peak=own.peak)
            yield from step_rows(taken, where, audio=seconds_of_audio, flops=flops, peak=peak, weights=model.weights)
            took = time.monotonic() - started


def estimated(plan: Plan, model: FullSize, where: str, batch_size: int, *, checkpointing: bool, peak: int) -> ResultRow:
    """Return the row of the estimate of `doctor --plan` beside a measured peak. The steps have no optimizer."""
    family = next(family for family in FAMILIES.values() if family.model_type == model.base.config.model_type)
    method: dict[str, Any] = {"lora_r": LORA_RANK, "lora_dropout": 0.0, "gradient_checkpointing": checkpointing}
    settings = TrainSettings(train_manifest="none", output_dir="none", batch_size=batch_size, grad_accum=1, **method)
    made = estimate(settings, family, model.base.config, Load(plan.clip_seconds))
    error = (made.weights + made.activations) / peak
    within = abs(error - 1) <= _ESTIMATE_ERROR
    figure = (made.weights + made.activations) / GIB
    return ResultRow(f"peak memory, estimated, {where}", figure, "GiB", "measured", error, "within 25 %", within)


def step_rows(
    taken: dict[str, Taken | None],
    where: str,
    *,
    audio: float,
    flops: float,
    peak: float,
    weights: int,
    names: tuple[str, str] = ("ours", "native"),
    against: str = NATIVE,
) -> Iterator[ResultRow]:
    """Yield the rows of a kind of step.

    Args:
        taken: Measurements by name.
        where: Description of the step.
        audio: Seconds of audio of a step.
        flops: Operations of a step.
        peak: Operations per second of the measured peak.
        weights: Memory of weights and adapters, in bytes.
        names: Names of the step and of the step to compare with.
        against: Description of the step to compare with.
    """
    own, other = taken[names[0]], taken[names[1]]
    if own is None:
        yield ResultRow(f"step, {where}", None, "out of memory")
        return
    seconds = median(own.seconds)
    if other is None:
        beside, times, memory = f"{against}: out of memory", None, None
    else:
        beside = f"{against} ({1000 * median(other.seconds):.1f} ms, {other.peak / GIB:.2f} GiB)"
        times = ratio(own.seconds, other.seconds)
        memory = (own.peak - weights) / (other.peak - weights) if other.peak > weights else None
    share, rate = flops / seconds / peak, flops / seconds / 1e12
    yield ResultRow(f"step, {where}", 1000 * seconds, "ms", beside, times)
    yield ResultRow(f"audio, {where}", audio / seconds, "seconds per s")
    yield ResultRow(f"model FLOPs utilisation ({rate:.3g} TFLOP/s), {where}", 100 * share, "% of the matrix product")
    yield ResultRow(f"peak memory (ratio: beyond the weights), {where}", own.peak / GIB, "GiB", beside, memory)
