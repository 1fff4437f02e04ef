"""Checks of `transformers.TrainingArguments` before data and model are loaded.

transformers accepts the arguments below and refuses them hours later, in the middle of a step, or never.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import is_bf16_available
from transformers import TrainingArguments, get_scheduler

from higgs_audio_trainer.config import TrainSettings, default_of, flags
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.training.optimizers import check_optimizer

#: Arguments without effect in this trainer, with the reason.
_WITHOUT_EFFECT = {
    "label_smoothing_factor": "the model computes the losses, which the log and the evaluation compare",
    "use_liger_kernel": "Liger has no kernels for Higgs Audio",
    "prediction_loss_only": "an evaluation computes losses alone",
    "eval_accumulation_steps": "an evaluation gathers no predictions",
    "include_for_metrics": "an evaluation computes losses alone",
    "batch_eval_metrics": "an evaluation computes losses alone",
}
#: Arguments of `torch.utils.checkpoint.checkpoint`, and those of transformers around it.
_OF_CHECKPOINTING = frozenset(
    (
        *("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop"),
        *("every_n_layers", "offload"),
    )
)
_SAMPLING = ("random", "sequential", "group_by_length")
_METRICS = ("loss", "text_loss", "audio_loss")
_STEPS_OF_A_TRIAL = 100  # any number, to build a schedule once


def check_arguments(arguments: TrainingArguments, settings: TrainSettings) -> None:
    """Raise an error for arguments that transformers would refuse late, or that would have no effect.

    Raises:
        UserError: A package is missing, two arguments contradict each other, or an argument has no effect.
    """
    problem = next(_problems(arguments, settings), None)
    if problem is not None:
        raise UserError(problem)
    check_optimizer(arguments)
    parameter = torch.nn.Parameter(torch.zeros(1, device=arguments.device))
    try:
        get_scheduler(
            arguments.lr_scheduler_type,
            torch.optim.SGD([parameter], lr=arguments.learning_rate),
            num_warmup_steps=arguments.get_warmup_steps(_STEPS_OF_A_TRIAL),
            num_training_steps=_STEPS_OF_A_TRIAL,
            scheduler_specific_kwargs=cast("dict[str, Any]", arguments.lr_scheduler_kwargs),
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--lr_scheduler_type {_name(arguments.lr_scheduler_type)}: {one_line(error)}. Give its arguments with "
            "--lr_scheduler_kwargs '{...}'"
        ) from error
    if arguments.push_to_hub:
        _check_hub(arguments)


def _problems(arguments: TrainingArguments, settings: TrainSettings) -> Iterator[str]:
    defaults = {item.name: item.default for item in fields(TrainingArguments)}
    for name, reason in _WITHOUT_EFFECT.items():
        value = settings.extra.get(name)
        if value and value != defaults.get(name):
            yield f"--{name}: expected the default, since the argument has no effect here ({reason}), got {value!r}"
    for name in ("eval_on_start", "eval_strategy"):
        if settings.extra.get(name) not in (None, False, "no") and not settings.eval_manifest:
            yield f"--{name}: expected samples to evaluate on, got no --eval_manifest. Name one"
    metric = arguments.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in _METRICS:
        yield f"--metric_for_best_model: expected one of {', '.join(_METRICS)}, got {metric!r}"
    if not arguments.max_grad_norm >= 0:
        yield f"--max_grad_norm: expected at least 0, got {arguments.max_grad_norm}"
    unknown = {*(arguments.gradient_checkpointing_kwargs or {})} - _OF_CHECKPOINTING
    if unknown:
        known = ", ".join(sorted(_OF_CHECKPOINTING))
        yield f"--gradient_checkpointing_kwargs: expected {known}, got {', '.join(sorted(unknown))}"
    strategy = _name(arguments.train_sampling_strategy)
    if strategy not in _SAMPLING:
        yield f"--train_sampling_strategy: expected one of {', '.join(_SAMPLING)}, got {strategy!r}"
    yield from _problems_of_loading(arguments)
    if settings.max_batch_seconds is not None:
        yield from _problems_of_a_budget(arguments)
    yield from _problems_of_the_machine(arguments)
    yield from problems_of_quantization(settings, sharding_backend(arguments.deepspeed, arguments.fsdp))


def problems_of_quantization(settings: TrainSettings, backend: str | None) -> Iterator[str]:
    """Yield a problem for weights in 4 or 8 bit with a backend that divides the weights among the ranks."""
    if (settings.load_in_4bit or settings.load_in_8bit) and backend:
        flag = "load_in_4bit" if settings.load_in_4bit else "load_in_8bit"
        yield (
            f"--{flag}: expected a single process or DDP, where each rank has the whole model, got {backend}. Leave "
            f"--{flag} or {backend} out"
        )


def sharding_backend(deepspeed: Any, fsdp: Any) -> str | None:
    """Return the name of the backend that divides the weights among the ranks, from flags or `accelerate launch`."""
    if deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return "DeepSpeed"
    return "FSDP" if fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else None


def _problems_of_loading(arguments: TrainingArguments) -> Iterator[str]:
    if arguments.dataloader_num_workers < 0:
        yield f"--dataloader_num_workers: expected at least 0, got {arguments.dataloader_num_workers}"
    if arguments.dataloader_num_workers == 0:
        for name in ("persistent_workers", "prefetch_factor", "multiprocessing_context"):
            if getattr(arguments, f"dataloader_{name}"):
                yield f"--dataloader_{name}: expected workers, got --dataloader_num_workers 0. Set it to 1 or more"
    if arguments.world_size > 1 and not getattr(arguments.accelerator_config, "even_batches", True):
        yield (
            "--accelerator_config: expected even_batches true, got false: a process without a last batch would leave "
            "the others waiting. Repeated samples of the last batch are masked and count once"
        )
    if _of_accelerator(arguments, "dispatch_batches"):
        yield (
            "--accelerator_config: expected dispatch_batches false, got true: a batch cannot be divided among "
            "the ranks, since the indices of its route are those of the whole batch. Leave dispatch_batches out: each "
            "rank loads batches of its own"
        )


def _of_accelerator(arguments: TrainingArguments, name: str) -> bool:
    return bool(getattr(arguments.accelerator_config, name, None))


def _problems_of_a_budget(arguments: TrainingArguments) -> Iterator[str]:
    if arguments.auto_find_batch_size:
        yield (
            "--max_batch_seconds: expected no --auto_find_batch_size, since the seconds decide how large a batch is, "
            "got both. Leave one out"
        )
    if _of_accelerator(arguments, "split_batches"):
        yield (
            "--accelerator_config: expected no split_batches with --max_batch_seconds, whose batches differ in size, "
            "got split_batches true. Leave one out"
        )


def _problems_of_the_machine(arguments: TrainingArguments) -> Iterator[str]:
    if "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > arguments.world_size:
        yield (
            f"--deepspeed: expected GPUs, got {os.environ['WORLD_SIZE']} processes on CPUs, each of which would train "
            "alone. Share the weights on CPUs with --fsdp"
        )
    if arguments.device.type == "cpu" and arguments.mixed_precision == "fp16":
        yield "--fp16: expected a GPU, got a CPU. Train with --bf16 true, or in full precision"
    if arguments.mixed_precision == "bf16" and not is_bf16_available(ignore_tpu=True):
        yield "--bf16: expected a device with bfloat16, got one without. Train with --fp16 true"
    if arguments.auto_find_batch_size and arguments.world_size > 1:
        yield (
            f"--auto_find_batch_size: expected one process, got {arguments.world_size}: a process that runs out of "
            "memory alone would leave the others waiting. Find --batch_size with one process"
        )


def notes_on(arguments: TrainingArguments, settings: TrainSettings) -> list[str]:
    """Return a line for each setting that does less than a reader of the command would expect.

    The warnings of transformers and torch about these settings are silenced with all other warnings of the libraries.
    """
    defaults = {item.name: default_of(item) for item in flags()}
    notes = []
    if settings.val_steps != defaults["val_steps"] and not settings.eval_manifest:
        notes.append("--val_steps: nothing is evaluated without --eval_manifest")
    if settings.max_steps > 0 and settings.epochs != defaults["epochs"]:
        notes.append(f"--epochs: --max_steps {settings.max_steps} decides where the training ends")
    if settings.max_batch_seconds is not None and settings.batch_size != defaults["batch_size"]:
        notes.append("--batch_size: counts for the evaluation alone, since --max_batch_seconds makes the batches")
    if arguments.save_total_limit is None and "save_total_limit" not in settings.extra:
        notes.append(
            f"--save_total_limit: all checkpoints in {settings.output_dir} are kept, since there are many already. "
            "Pass a number to keep the last ones alone"
        )
    if arguments.push_to_hub and Path(settings.base_ckpt).is_dir():
        notes.append(
            f"--push_to_hub: adapter_config.json on the Hub will name the folder {settings.base_ckpt}. Name the base "
            "checkpoint as on the Hub, so that others can load the adapter"
        )
    workers, cores = arguments.dataloader_num_workers, os.cpu_count() or 1
    if workers > cores:
        notes.append(f"--dataloader_num_workers: {workers} workers share {cores} cores, which may slow them down")
    return notes


def _check_hub(arguments: TrainingArguments) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        HfApi().whoami(token=arguments.hub_token)
    except (OSError, ValueError, HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise UserError(
            f"--push_to_hub: expected access to the Hub, got: {one_line(error)}. Log in with `hf auth login`, check "
            "the network, or train without --push_to_hub"
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests"):
            raise
        raise UserError(f"--push_to_hub: expected access to the Hub, got: {one_line(error)}") from error


def _name(value: object) -> str:
    return str(getattr(value, "value", value))
