"""Facts about a training that is not ours: settings in force, steps to log, number of the attempt."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, is_initialized
from torch import nn
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from higgs_audio_trainer.adapters import Adapter
from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.recording.settings import RunFacts


def foreign_rank() -> int:
    """Return the rank of this process, from the process group or from the launcher."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def next_attempt(folder: Path, *, resumed: bool) -> tuple[str, int]:
    """Return the id of the run and the number of the attempt, one higher than the numbers of the existing files.

    Args:
        folder: Folder of the events.
        resumed: Continue the run of the last file.
    """
    numbers = [0]
    run_id = uuid.uuid4().hex[:12]
    for path in sorted(folder.glob("rank00000-attempt[0-9][0-9][0-9]*.jsonl")):
        numbers.append(int(path.name.removeprefix("rank00000-attempt")[:3]) + 1)
        if resumed:
            with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                run_id = str(json.loads(file.readline())["run_id"])
    return run_id, max(numbers)


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
