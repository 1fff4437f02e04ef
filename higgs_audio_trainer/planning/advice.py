"""Changes of settings that make a training fit, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.planning.estimate import Estimate, Load, backend_of, batch_size_of

_SMALL_OPTIMIZER = "adamw_bnb_8bit"


@dataclass(frozen=True, slots=True)
class Change:
    """Change of settings, and the estimate with this change and those before.

    Attributes:
        flags: Flags of the change, as typed.
        estimate: Estimate with all changes so far.
    """

    flags: str
    estimate: Estimate


def changes(
    settings: TrainSettings, load: Load, estimate_of: Callable[[TrainSettings], Estimate], memory: int
) -> list[Change]:
    """Return changes in the order of their cost, until the training fits or no change is left.

    Checkpointing costs time. A smaller batch with more micro-batches gives the same gradients. An optimizer of 8 bit
    and a model of 4 bit round, and are for ranks with the whole model alone. The last change of a full fine-tuning is
    another method: adapters.

    Args:
        settings: Settings of a training that does not fit.
        load: Batch and devices.
        estimate_of: Returns the estimate of settings.
        memory: Free memory of the device, in bytes.
    """
    made: list[Change] = []
    for given in _steps(settings, load):
        settings = replace(settings, **given)
        estimate = estimate_of(settings)
        made.append(Change(_flags(given), estimate))
        if estimate.fits(memory):
            break
    return made


def _steps(settings: TrainSettings, load: Load) -> Iterator[dict[str, Any]]:
    extra = dict(settings.extra)
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    batch = batch_size_of(settings, load)
    if batch > 1 and settings.max_batch_seconds is None:
        yield {"batch_size": 1, "grad_accum": settings.grad_accum * batch}
    elif batch > 1:
        yield {"max_batch_seconds": load.clip_seconds, "grad_accum": settings.grad_accum * batch}
    has_whole_model = backend_of(settings) is None
    is_small = any(word in str(extra.get("optim")) for word in ("8bit", "4bit", "paged", "adafactor", "sgd"))
    if has_whole_model and not is_small:
        yield {"extra": {**extra, "optim": _SMALL_OPTIMIZER}}
    if settings.full_finetune:
        yield {"full_finetune": False, "train": None, "freeze": None}
    if has_whole_model and not settings.load_in_4bit:
        yield {"load_in_4bit": True, "load_in_8bit": False}


def _flags(given: dict[str, Any]) -> str:
    """Return flags as typed, without those at their default.

    Example:
        >>> _flags({"gradient_checkpointing": True}), _flags({"batch_size": 1, "grad_accum": 32})
        ('--gradient_checkpointing true', '--batch_size 1 --grad_accum 32')
        >>> _flags({"full_finetune": False, "train": None})
        'adapters in place of --full_finetune'
    """
    if given.get("full_finetune") is False:
        return "adapters in place of --full_finetune"
    if "extra" in given:
        return f"--optim {given['extra']['optim']}"
    shown = {name: value for name, value in given.items() if value is not False}
    return " ".join(
        f"--{name} {str(value).lower() if isinstance(value, bool) else f'{value:g}'}" for name, value in shown.items()
    )
