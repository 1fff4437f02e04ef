"""The settings of a run as `transformers.TrainingArguments`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.documents import load_json, read_json, shown
from higgs_audio_trainer.errors import UserError, of_library, one_line
from higgs_audio_trainer.families.quantization import Quantization
from higgs_audio_trainer.output_dir.checkpoints import is_saved_to_the_end
from higgs_audio_trainer.training.argument_checks import check_arguments
from higgs_audio_trainer.training.compilation import compile_for_every_shape

# Rank 0 checks and encodes the manifest while the other ranks wait. torch's default of 30 minutes is too short.
_PREPARATION_TIMEOUT_S = 6 * 3600
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)  # transformers knows other texts, as base64
_FILES_OF_JSON = ("accelerator_config", "deepspeed", "fsdp_config")  # arguments that may name a file
_CHECKPOINTS = 3  # kept by default: at full size a checkpoint has 0.95 GB


def training_arguments(settings: TrainSettings) -> TrainingArguments:
    """Return the arguments of `transformers.Trainer`: our settings, overridden by the user's further arguments.

    Under a launcher, this call starts the process group.

    Raises:
        UserError: transformers refuses a value, or would refuse the value late or ignore the value.
    """
    if settings.extra.get("deepspeed") and find_spec("deepspeed") is None:
        raise UserError(
            "--deepspeed: expected the package deepspeed, got none installed. Install it: pip install deepspeed"
        )
    ours, given = _our_arguments(settings), dict(settings.extra)
    for name in _FILES_OF_JSON:
        _check_file(name, given.get(name))
    if "accelerator_config" in given:
        given["accelerator_config"] = _with_defaults(given["accelerator_config"], ours["accelerator_config"])
    try:
        arguments = TrainingArguments(**(ours | given))
    except Exception as error:  # of an option of any type, transformers raises any class
        raise UserError(f"transformers.TrainingArguments: {of_library(error)}") from error
    check_arguments(arguments, settings)
    if (quantization := quantization_of(settings)) is not None:
        quantization.check()
    if arguments.torch_compile:
        compile_for_every_shape()
    # With several GPUs in one process transformers uses DataParallel, which cannot scatter a batch of ragged clips.
    arguments._n_gpu = min(arguments.n_gpu, 1)  # noqa: SLF001 - transformers has no argument for this
    return arguments


def _check_file(name: str, value: Any) -> None:
    """Raise an error for the name of a file that holds no JSON. transformers reads a file or device of any size."""
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return
    try:
        content = read_json(Path(value))
    except OSError as error:
        if error.errno in _NO_FILE:
            return
        raise UserError(f"--{name}: {value}: {error.strerror}. Name a file of JSON.") from error
    except ValueError as error:
        raise UserError(f"--{name} {value}: expected JSON, got: {one_line(error)}. Correct the file.") from error
    if not isinstance(content, dict):
        raise UserError(f"--{name} {value}: expected a JSON object, got {shown(content)}. Correct the file.")


def _our_arguments(settings: TrainSettings) -> dict[str, Any]:
    trackers = [name for part in settings.report_to.split(",") if (name := part.strip()) not in ("", "none")]
    cuda = uses_cuda(settings)
    ours: dict[str, Any] = {
        "output_dir": settings.output_dir,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.grad_accum,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "learning_rate": settings.lr,
        "weight_decay": settings.wd,
        "warmup_steps": settings.warmup,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "seed": settings.seed,
        "save_steps": settings.save_steps,
        "save_total_limit": _checkpoints_to_keep(settings),
        "eval_strategy": "steps" if settings.eval_manifest else "no",
        "eval_steps": settings.val_steps,
        "report_to": trackers or "none",
        "bf16": cuda and torch.cuda.is_bf16_supported() and settings.dtype in ("auto", "bfloat16"),
        # Needed by trackers alone: without a tracker, transformers' log would wait for the device for nothing.
        "logging_strategy": "steps" if trackers else "no",
        "logging_steps": settings.log_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # the filter hides NaN, and waits for the device at every micro-batch
        "disable_tqdm": True,  # our bar makes room for console lines
        "remove_unused_columns": False,  # the collator takes examples, not columns
        "label_names": ["labels"],
        "ddp_find_unused_parameters": False,  # every adapter takes part in every forward
        "dataloader_pin_memory": cuda,
        # Copies to the device that the host does not wait for, which needs pinned memory.
        "accelerator_config": {"non_blocking": cuda and settings.extra.get("dataloader_pin_memory", True)},
        "dataloader_persistent_workers": settings.extra.get("dataloader_num_workers", 0) > 0,
        "use_cpu": not torch.accelerator.is_available(),
        "ddp_timeout": _PREPARATION_TIMEOUT_S,
    }
    if settings.extra.get("fp16"):
        ours["bf16"] = False
    return ours


def _checkpoints_to_keep(settings: TrainSettings) -> int | None:
    """Return the default limit of checkpoints, and None in a directory whose run kept more than the default.

    One more than the limit are there if a run was killed between the save of a checkpoint and the removal of another.
    """
    kept = sum(map(is_saved_to_the_end, Path(settings.output_dir).glob("checkpoint-*")))
    return None if kept > _CHECKPOINTS + 1 else _CHECKPOINTS


def _with_defaults(config: Any, defaults: Mapping[str, Any]) -> Any:
    """Return an accelerator_config with defaults for missing keys. The path of a file is returned as given.

    Example:
        >>> _with_defaults('{"split_batches": true}', {"non_blocking": True})
        {'non_blocking': True, 'split_batches': True}
    """
    if isinstance(config, str):
        with suppress(ValueError):  # not JSON: a path, which transformers reads
            config = load_json(config)
    return {**defaults, **config} if isinstance(config, Mapping) else config


def quantization_of(settings: TrainSettings) -> Quantization | None:
    """Return the quantization of a run's base model on the device of this process. None for a model in full."""
    if not (settings.load_in_4bit or settings.load_in_8bit):
        return None
    accelerator = None if settings.extra.get("use_cpu") else torch.accelerator.current_accelerator()
    device = "cpu" if accelerator is None else f"{accelerator.type}:{torch.accelerator.current_device_index()}"
    return Quantization(4 if settings.load_in_4bit else 8, device)


def dtype_of(settings: TrainSettings) -> torch.dtype:
    """Return the data type of a run's base model on the device of this process."""
    if settings.dtype != "auto":
        named: torch.dtype = getattr(torch, settings.dtype)
        return named
    if settings.full_finetune:  # steps of a usual learning rate are below the rounding of bfloat16
        return torch.float32
    return torch.bfloat16 if uses_cuda(settings) and torch.cuda.is_bf16_supported() else torch.float32


def uses_cuda(settings: TrainSettings) -> bool:
    """Return True if the run trains on a CUDA device."""
    return torch.cuda.is_available() and not settings.extra.get("use_cpu")
