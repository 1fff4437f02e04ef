"""Checks of `--optim` before data and model are loaded: the package, the arguments, and a step on the device."""

from __future__ import annotations

import warnings
from copy import copy
from importlib.util import find_spec
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from transformers import Trainer, TrainingArguments

from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.families.quantization import require_bitsandbytes
from higgs_audio_trainer.training.sharding import fsdp_version

#: Beginnings of the names of optimizers from a package, as `pip install` and as `import` know the package.
_PACKAGES = {
    ("adamw_bnb_8bit", "adamw_8bit", "ademamix", "lion_", "paged_", "rmsprop_bnb"): ("bitsandbytes", "bitsandbytes"),
    ("adamw_torch_4bit", "adamw_torch_8bit"): ("torchao", "torchao"),
    ("schedule_free_",): ("schedulefree", "schedulefree"),
    ("stable_adamw",): ("torch-optimi", "optimi"),
    ("grokadamw",): ("grokadamw", "grokadamw"),
    ("galore_",): ("galore-torch", "galore_torch"),
    ("apollo_",): ("apollo-torch", "apollo_torch"),
    ("lomo", "adalomo"): ("lomo-optim", "lomo_optim"),
    ("adamw_anyprecision",): ("git+https://github.com/pytorch/torchdistx", "torchdistx"),
    ("adamw_torch_xla",): ("torch_xla", "torch_xla"),
    ("adamw_torch_npu_fused",): ("torch_npu", "torch_npu"),
}
_PROJECTING, _FUSED = ("galore_", "apollo_"), ("lomo", "adalomo")  # take the modules of the model
_MOST_CHARACTERS = 120  # of a message that lists tensors
_TRIAL = 128  # rows and columns of a parameter: bitsandbytes keeps the state of small ones in 32 bit


def check_optimizer(arguments: TrainingArguments) -> None:
    """Raise an error for an optimizer that cannot train on the device of this process.

    Raises:
        UserError: A package is missing, an argument is refused or has no effect, or a step fails.
    """
    name = str(getattr(arguments.optim, "value", arguments.optim))
    flag = f"--optim {name}"
    for beginnings, (package, module) in _PACKAGES.items():
        if not name.startswith(beginnings):
            continue
        if module == "bitsandbytes":
            require_bitsandbytes(flag)
        elif find_spec(module) is None:
            raise UserError(
                f"{flag}: expected the package {module}, got none installed. Install it: pip install {package}"
            )
    if name.startswith((*_PROJECTING, *_FUSED)):
        _check_modules(arguments, name)
        return
    try:
        optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
        parameter = torch.nn.Parameter(_trial_weight(arguments))
        tried = optimizer([parameter], **settings)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"{flag}: {one_line(error)}") from error
    _try_step(tried, parameter, flag)
    if arguments.optim_args:
        without = copy(arguments)
        without.optim_args = None
        if Trainer.get_optimizer_cls_and_kwargs(without)[1] == settings:
            raise UserError(f"--optim_args: expected arguments of {flag}, got {arguments.optim_args!r} without effect")


def _trial_weight(arguments: TrainingArguments) -> torch.Tensor:
    """Return a weight as the training has them: FSDP2 gives the optimizer shards as `DTensor`, which not all take."""
    weight = torch.zeros(_TRIAL, _TRIAL, device=arguments.device)
    if arguments.world_size == 1 or fsdp_version(arguments) != 2:  # noqa: PLR2004 - FSDP2
        return weight
    mesh = init_device_mesh(arguments.device.type, (arguments.world_size,))
    return DTensor.from_local(weight, mesh, [Shard(0)])


def _check_modules(arguments: TrainingArguments, name: str) -> None:
    """Check what can be known before the model is loaded."""
    flag = f"--optim {name}"
    if name.startswith(_PROJECTING) and not arguments.optim_target_modules:
        raise UserError(
            f"{flag}: expected the modules whose gradients are projected, got none. Name them: "
            "--optim_target_modules '.*lora_A.*'"
        )
    if name.startswith(_FUSED) and arguments.gradient_accumulation_steps > 1:
        raise UserError(
            f"{flag}: expected --grad_accum 1, since the backward pass of each micro-batch changes the weights, got "
            f"{arguments.gradient_accumulation_steps}"
        )
    if name == "adalomo" and arguments.device.type != "cuda":
        raise UserError(f"{flag}: expected a CUDA device, got {arguments.device}. Train with another --optim")


def _try_step(optimizer: Any, parameter: torch.nn.Parameter, flag: str) -> None:
    if hasattr(optimizer, "train"):  # of schedulefree, as transformers calls it
        optimizer.train()
    parameter.grad = torch.ones_like(parameter)
    try:
        with warnings.catch_warnings(action="ignore"):
            optimizer.step()
    except Exception as error:  # of another package, which fails in any way where its kernels are missing
        raise UserError(
            f"{flag}: expected an optimizer for {_place_of(parameter)}, got {type(error).__name__} at a step: "
            f"{one_line(error)[:_MOST_CHARACTERS]}. Install the newest version of its package, or name another --optim"
        ) from error


def _place_of(parameter: torch.nn.Parameter) -> str:
    return f"{parameter.device.type}{' with FSDP2' if isinstance(parameter, DTensor) else ''}"
