"""The model of a run: the base model of its family with LoRA adapters, or the base model alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.quantization import prepare_quantized
from higgs_audio_trainer.phases import phase
from higgs_audio_trainer.training.arguments import dtype_of, quantization_of
from higgs_audio_trainer.training.chosen_parameters import choose_parameters
from higgs_audio_trainer.training.converted_adapter import ConvertedPeftModel, changes_weights
from higgs_audio_trainer.training.lora_settings import lora_config


def add_adapters(model: nn.Module, config: LoraConfig) -> PeftModel:
    """Freeze a model and add LoRA adapters.

    Args:
        model: Base model.
        config: Configuration of the adapters.

    Raises:
        UserError: A name matches no module, or a field cannot work with this model.
    """
    _check_targets(model, config)
    config.modules_to_save = _saved_modules(model, config)
    adapted: PeftModel
    try:
        if changes_weights(config.init_lora_weights):
            adapted = ConvertedPeftModel(model, config)
            _check_start(adapted, config.init_lora_weights)
        else:
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise UserError(f"peft: {' '.join(str(error).split())}") from error
    _check_adapted(adapted, config)
    # peft would write a template of a model card into each folder that it saves to.
    adapted.create_or_update_model_card = _write_no_card  # type: ignore[assignment, method-assign]
    return adapted


def _check_targets(model: nn.Module, config: LoraConfig) -> None:
    linear = _linear(model)
    if isinstance(config.target_modules, str):  # a regular expression
        return
    for target in config.target_modules or ():
        if not _matching(linear, target):
            known = sorted({name.rpartition(".")[2] for name in linear})
            branches = "; mlp.* is the text branch, audio_mlp.* the audio branch"
            has_branches = any(".audio_mlp." in name for name in linear)
            raise UserError(
                f"--lora_targets: expected names of linear modules ({', '.join(known)}{branches * has_branches}), got "
                f"{target!r}"
            )


def _saved_modules(model: nn.Module, config: LoraConfig) -> list[str] | None:
    """Return the whole names of the modules to save, which must be there and hold no module with an adapter.

    peft compares the ends of names without regard to dots, so that `norm` would be `q_norm` too, and takes a module
    apart from a module inside with the same end.
    """
    names = [name for name, _ in model.named_modules() if name]
    targets = () if isinstance(config.target_modules, str) else config.target_modules or ()
    saved: list[str] = []
    for module in config.modules_to_save or ():
        found = _matching(names, module)
        if not found:
            known = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdecimal()})
            raise UserError(
                f"--modules_to_save: expected names of modules ({', '.join(known)}), got {module!r}."
                f"{suggestion(module, known)}"
            )
        inside = [name for target in targets for name in _matching(_linear(model), target) if _is_inside(name, found)]
        if inside:
            raise UserError(
                f"--modules_to_save: expected modules without an adapter, got {module!r}, which has one at "
                f"{inside[0]}. Leave it out of --modules_to_save or of --lora_targets"
            )
        saved += found
    return [name for name in saved if not _is_inside(name, {*saved} - {name})] or None


def _check_unquantized(model: nn.Module, config: LoraConfig) -> None:
    """Check that no module to save will be quantized: the linear modules of the decoder will."""
    for module in _saved_modules(model, config) or ():
        if inside := [name for name in _linear(model) if name.startswith("model.") and _is_inside(name, [module])]:
            raise UserError(
                f"--modules_to_save: expected modules that stay unquantized (heads, embeddings, norms), got {module}, "
                f"with {inside[0]}. Name it in --lora_targets, or train without --load_in_4bit and --load_in_8bit"
            )


def _check_start(adapted: PeftModel, start: Any) -> None:
    """Check the ranks of the adapters, and that no adapted module shares weights."""
    for name in _adapted_names(adapted):
        layer: Any = adapted.get_base_model().get_submodule(name)
        most = min(layer.in_features, layer.out_features)
        if (rank := layer.r["default"]) > most:
            raise UserError(
                f"--init_lora_weights {start}: expected a rank of at most {most} for {name}, which has as many "
                f"directions to start from, got {rank}. Take a smaller --lora_r, or start with true or gaussian"
            )
    owners = defaultdict(list)
    for name, parameter in adapted.get_base_model().named_parameters(remove_duplicate=False):
        owners[parameter].append(name.removesuffix(".weight").removesuffix(".base_layer"))
    for shared in owners.values():
        changed = set(shared) & set(_adapted_names(adapted))
        if len(shared) > 1 and changed:
            head, other = sorted(shared, key=lambda name: name not in changed)[:2]
            raise UserError(
                f"--init_lora_weights {start}: expected no adapter on {head}, whose weights are "
                f"those of {other}. Leave {head} out of --lora_targets, or start with true or gaussian"
            )


def _check_adapted(adapted: PeftModel, config: LoraConfig) -> None:
    """Check that each target and pattern of the settings matches an adapter. peft ignores a name without a match."""
    names = _adapted_names(adapted)
    targets = () if isinstance(config.target_modules, str) else config.target_modules or ()
    for target in targets:
        if not _matching(names, target):
            raise UserError(
                f"--lora_targets: expected modules that get an adapter, got {target!r}, which --lora_layers "
                "or exclude_modules leaves without one. Leave the target out"
            )
    for pattern in ("rank_pattern", "alpha_pattern"):
        for key in getattr(config, pattern) or ():
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in names):
                raise UserError(
                    f"--lora_config: {pattern}: expected names of modules with an adapter, got {key!r}."
                    f"{suggestion(key, {name.rpartition('.')[2] for name in names})}"
                )
    if config.bias != "none" and not any(
        parameter.requires_grad and name.endswith(".bias") for name, parameter in adapted.named_parameters()
    ):
        raise UserError(f"--lora_bias {config.bias}: expected biases to train, got a model without any. Leave it out")


def _adapted_names(adapted: PeftModel) -> list[str]:
    tuner: Any = adapted.base_model
    return list(tuner.targeted_module_names)


def _linear(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _matching(names: Iterable[str], end: str) -> list[str]:
    return [name for name in names if name == end or name.endswith(f".{end}")]


def _is_inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _write_no_card(_folder: str) -> None:
    """Leave the model card to `model_card.py`."""


def check_method(settings: TrainSettings, checkpoint: BaseCheckpoint) -> None:
    """Check the names of modules and parameters in the settings before data are prepared and weights are loaded.

    Raises:
        UserError: A name matches no module or parameter of the model, or nothing is left to train.
    """
    model = checkpoint.family.without_weights(checkpoint.config)
    if settings.full_finetune:
        choose_parameters(model, train=settings.train, freeze=settings.freeze)
        return
    config = lora_config(settings)
    if config.init_lora_weights == "orthogonal" and config.r % 2:
        raise UserError(f"--init_lora_weights orthogonal: expected an even --lora_r, got {config.r}")
    if settings.load_in_4bit or settings.load_in_8bit:
        _check_unquantized(model, config)
    start, config.init_lora_weights, config.use_dora = config.init_lora_weights, True, False  # both need the weights
    with torch.device("meta"):
        adapted = add_adapters(model, config)
    if changes_weights(start):
        _check_start(adapted, start)


def load_model(settings: TrainSettings, checkpoint: BaseCheckpoint) -> Any:
    """Load the base model of a run, and add LoRA adapters or choose the parameters to train.

    Raises:
        UserError: The weights cannot be loaded, some are missing, or a name matches no module or parameter.
    """
    quantization = quantization_of(settings)
    with phase(f"loading the weights of {checkpoint.name}"):
        base = checkpoint.family.for_training(
            checkpoint.name, dtype=dtype_of(settings), attention=settings.attn_implementation, quantization=quantization
        )
        if quantization is not None:
            prepare_quantized(base)
    with phase("adding the adapters" if not settings.full_finetune else "choosing the parameters"):
        return with_method(base, settings)


def plan_model(settings: TrainSettings, base: Any, dtype: torch.dtype) -> Any:
    """Return the model of a run from a base model on the meta device. See `load_model`.

    The start of the adapters does not matter here, and some starts need the weights.
    """
    with torch.device("meta"):
        return with_method(base.to(dtype), replace(settings, init_lora_weights="true"))


def with_method(base: Any, settings: TrainSettings) -> Any:
    """Return a base model with LoRA adapters, or with the chosen parameters of a full fine-tuning to train.

    Args:
        base: Base model of a family.
        settings: Settings of the run, with the weight of the text loss.

    Raises:
        UserError: A name matches no module or parameter.
    """
    base.text_loss_weight = settings.text_weight
    base.loss_chunk_rows = settings.loss_chunk_rows
    if settings.full_finetune:
        choose_parameters(base, train=settings.train, freeze=settings.freeze)
        return base
    adapted = add_adapters(base, lora_config(settings))
    if settings.dtype == "auto":  # under autocast, trained modules of bfloat16 would lose small steps to rounding
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return adapted
