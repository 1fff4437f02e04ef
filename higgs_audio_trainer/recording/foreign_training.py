"""Facts about a training that is not ours: settings in force, steps to log, number of the attempt."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.state import AcceleratorState, is_initialized
from torch import nn
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from higgs_audio_trainer.adapters import Adapter
from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.documents import load_json
from higgs_audio_trainer.recording.settings import RunFacts

#: Settings of a Trainer that decide what it learns, or when it ends.
_DECIDING = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "weight_decay"),
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "data_seed"),
    *("train_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("dataloader_drop_last", "max_steps", "num_train_epochs"),
)


def foreign_rank() -> int:
    """Return the rank of this process, from the process group or from the launcher."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


class NextAttempt(NamedTuple):
    """Next attempt of a folder.

    Attributes:
        run_id: Id of the run.
        number: Number of the attempt, one higher than the numbers of the existing files.
        config: Settings of the resumed run's last attempt; None for a new run or if unknown.
    """

    run_id: str
    number: int
    config: Mapping[str, Any] | None = None


def next_attempt(folder: Path, *, resumed: bool) -> NextAttempt:
    """Return the next attempt of a folder.

    Args:
        folder: Folder of the events.
        resumed: Continue the run of the last file.
    """
    made = NextAttempt(uuid.uuid4().hex[:12], 0)
    for path in sorted(folder.glob("rank00000-attempt[0-9][0-9][0-9]*.jsonl")):
        made = made._replace(number=max(made.number, int(path.name.removeprefix("rank00000-attempt")[:3]) + 1))
        if resumed:
            with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                start = load_json(file.readline())
                made = made._replace(run_id=str(start["run_id"]), config=start.get("config"))
    return made


def changes_between(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """Return the settings of a resumed Trainer that decide what it learns and differ, as [then, now]. None if unknown.

    Example:
        >>> changes_between({"learning_rate": 0.1, "seed": 0}, {"learning_rate": 0.2, "seed": 0})
        {'learning_rate': [0.1, 0.2]}
    """
    if not isinstance(before, Mapping):
        return None
    both = [name for name in _DECIDING if name in before and name in now]
    return {name: [before[name], now[name]] for name in both if before[name] != now[name]}


def steps_between_logs(arguments: TrainingArguments, state: TrainerState, loader: object) -> int:
    """Return the interval at which a Trainer logs, in optimizer steps.

    A share of all steps is resolved, and an epoch is counted in steps. The interval of a Trainer that logs nothing, or
    of epochs of unknown length, is the whole training.

    Args:
        arguments: Settings of the Trainer.
        state: State of the Trainer at the beginning of the training.
        loader: Batches of an epoch.
    """
    if arguments.logging_strategy == IntervalStrategy.STEPS:
        return max(1, int(state.logging_steps))
    with suppress(TypeError):  # no loader, or batches of unknown number
        if arguments.logging_strategy == IntervalStrategy.EPOCH:
            return max(1, math.ceil(len(loader) / arguments.gradient_accumulation_steps))  # type: ignore[arg-type]
    return max(1, state.max_steps)


def trainer_config(arguments: TrainingArguments, state: TrainerState, optimizer: Any) -> dict[str, Any]:
    """Return the settings of a Trainer, with the batch size and the learning rate in force.

    A Trainer may find a smaller batch size by itself. A resumed optimizer keeps the learning rate of its checkpoint.

    Args:
        arguments: Settings of the Trainer.
        state: State of the Trainer after the first step.
        optimizer: Optimizer of the Trainer; None if unknown.
    """
    config: dict[str, Any] = arguments.to_sanitized_dict()
    if state.train_batch_size:
        config["train_batch_size"] = state.train_batch_size
    rates = {group.get("initial_lr") for group in getattr(optimizer, "param_groups", ())}
    if len(rates) == 1 and None not in rates:
        config["learning_rate"] = float(rates.pop())
    return config


def foreign_facts(
    model: nn.Module, adapter: Adapter, config: Mapping[str, Any], *, pretrained: bool | None, **more: Any
) -> RunFacts:
    """Return the facts of a training for `run_start`.

    Args:
        model: Model without wrappers.
        adapter: Meaning of the model's outputs.
        config: Settings of the training.
        pretrained: Whether the training began with trained weights. None to ask the model's configuration.
        more: Further fields of `RunFacts`.
    """
    settings = getattr(model, "config", None)
    precision = _mixed_precision()
    in_force = {} if precision is None else {"mixed_precision": precision}
    first = next(model.parameters(), None)
    return RunFacts(
        config={**config, **in_force, "adapter": adapter.name, "model": type(model).__name__},
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        device="cpu" if first is None else str(first.device),
        num_eval_samples=0,  # a Trainer makes them after the beginning of the training
        trainable_parameters=sum(part.numel() for part in model.parameters() if part.requires_grad),
        base_is_random=getattr(settings, RANDOM_WEIGHTS, None) if pretrained is None else not pretrained,
        max_length=getattr(settings, "max_position_embeddings", None),
        modalities=tuple(reading.modality for reading in adapter.readings),
        stops=adapter.stops(settings),
        **more,
    )


def _mixed_precision() -> str | None:
    """Return the mixed precision of accelerate: no, fp16, bf16 or fp8. None in a training without accelerate."""
    return str(AcceleratorState().mixed_precision) if is_initialized() else None


def tokenizer_of(processing_class: Any) -> Any:
    """Return the tokenizer, or the tokenizer of a processor, or None."""
    found = getattr(processing_class, "tokenizer", processing_class)
    return found if callable(getattr(found, "decode", None)) else None


def num_samples_of(loader: object) -> int:
    """Return the number of samples of a loader's data set; 0 if unknown."""
    with suppress(TypeError):  # no data set, or a stream of unknown length
        return len(getattr(loader, "dataset", None))  # type: ignore[arg-type]
    return 0
