"""Steps of each method of training in `docs/methods.md` at full size, beside the estimate of their memory."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.device.full_size import FullSize, FullSizeTts3
from benchmarks.device.plan import GIB, Plan
from benchmarks.methods import METHODS, Method, settings_of
from benchmarks.rows import ResultRow
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.families.quantization import fit_for_cpu, prepare_quantized
from higgs_audio_trainer.planning.estimate import Load, estimate
from higgs_audio_trainer.training.model import with_method

_BATCH_SIZE = 4
_ESTIMATE_ERROR = 0.25
_BITSANDBYTES = "bitsandbytes"


def quantized(model: Any, bits: int, device: str) -> Any:
    """Return a model whose decoder has linear modules of bitsandbytes, as `from_pretrained` loads them.

    Args:
        model: Model of a family with bfloat16 weights.
        bits: 4 or 8.
        device: Device of the weights.
    """
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit  # noqa: PLC0415 - need not be there

    for parent in [*model.model.modules()]:
        for name, module in [*parent.named_children()]:
            if not isinstance(module, nn.Linear):
                continue
            weight: Any = module.weight.data
            sizes = (module.in_features, module.out_features, module.bias is not None)
            if bits == 4:  # noqa: PLR2004 - or 8
                new: Any = Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
                new.weight = Params4bit(weight, requires_grad=False, quant_type="nf4").to(device)
            else:
                new = Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
                new.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(device)
            setattr(parent, name, new)
    prepare_quantized(model)
    return fit_for_cpu(model)


def _as_loaded(base: Any, settings: TrainSettings, device: str) -> Any:
    """Return a base model with weights as `load_model` has them on a device with bfloat16."""
    if settings.load_in_4bit or settings.load_in_8bit:
        return quantized(base, 4 if settings.load_in_4bit else 8, device)
    return base.float() if settings.full_finetune and settings.dtype == "auto" else base


def _optimizer(model: Any, settings: TrainSettings) -> Any:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.extra.get("optim") != "adamw_bnb_8bit":
        return torch.optim.AdamW(trained)
    from bitsandbytes.optim import AdamW8bit  # noqa: PLC0415 - need not be there

    return AdamW8bit(trained)


def methods(plan: Plan) -> Iterator[ResultRow]:
    """Measure steps of the optimizer with each method."""
    for name, kind in {"higgs-audio-v2": FullSize, "higgs-tts-3": FullSizeTts3}.items():
        for method in METHODS:
            where = f"{name}, {method.name}, B={_BATCH_SIZE}, {plan.clip_seconds:g} s clips"
            if _BITSANDBYTES in _packages(method) and find_spec(_BITSANDBYTES) is None:
                yield ResultRow(f"step, {where}", None, "not installed", against=_BITSANDBYTES)
            elif not plan.has_time():
                yield ResultRow(f"step, {where}", None, "skipped", against="the time is used up")
            else:
                try:
                    yield from _rows(plan, name, kind, method, where)
                except torch.OutOfMemoryError:
                    yield ResultRow(f"step, {where}", None, "out of memory")
                plan.free()


def _packages(method: Method) -> set[str]:
    needs = method.settings.get("load_in_4bit") or method.settings.get("load_in_8bit") or "extra" in method.settings
    return {_BITSANDBYTES} if needs else set()


def _rows(plan: Plan, name: str, kind: type[FullSize], method: Method, where: str) -> Iterator[ResultRow]:
    family = FAMILIES[name]
    settings = settings_of(method, batch_size=_BATCH_SIZE, grad_accum=1).with_text_loss(family.text_loss_weight)
    size = kind(plan, lambda base: with_method(_as_loaded(base, settings, plan.device), settings))
    size.set_checkpointing(on=settings.gradient_checkpointing)
    optimizer = _optimizer(size.model, settings)
    batch, _ = size.batch(_BATCH_SIZE)

    def step() -> None:
        size.step(size.base.forward, batch)
        optimizer.step()

    taken = [plan.measured(step) for _ in range(1 + plan.rounds)][1:]  # the first makes the optimizer's states
    yield ResultRow(f"step, {where}", 1000 * median(seconds for seconds, _ in taken), "ms")
    if peak := max(peak for _, peak in taken):
        made = estimate(settings, family, size.base.config, Load(plan.clip_seconds))
        error = made.peak / peak
        yield ResultRow(f"peak memory, {where}", peak / GIB, "GiB")
        yield ResultRow(
            f"peak memory, estimated, {where}",
            made.peak / GIB,
            "GiB",
            "measured",
            error,
            "within 25 %",
            abs(error - 1) <= _ESTIMATE_ERROR,
        )
