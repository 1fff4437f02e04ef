"""The model of a run: the base model of its family, and LoRA adapters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from higgs_audio_trainer.config import LORA_TARGETS, TrainSettings
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.training.arguments import uses_cuda

#: Attention and feed-forward layers, in v2 of both branches: `gate_proj` is also the end of `audio_mlp.gate_proj`.
DEFAULT_LORA_TARGETS = tuple(LORA_TARGETS.split(","))


def add_lora(
    model: nn.Module, *, r: int, alpha: int, dropout: float, targets: Sequence[str] = DEFAULT_LORA_TARGETS
) -> PeftModel:
    """Freeze a model and add LoRA adapters.

    Args:
        model: Base model.
        r: Rank of the adapters.
        alpha: Numerator of the adapters' scale, alpha / r.
        dropout: Probability of dropout before each adapter.
        targets: Names of linear modules, or their ends from a dot on, such as `q_proj` and `audio_mlp.gate_proj`.

    Raises:
        UserError: A target matches no linear module.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            branches = "; mlp.* is the text branch, audio_mlp.* the audio branch"
            has_branches = any(".audio_mlp." in name for name in linear)
            raise UserError(
                f"--lora_targets: expected names of linear modules ({', '.join(known)}{branches * has_branches}), got "
                f"{target!r}"
            )
    adapted = get_peft_model(
        model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    )
    # peft would write a template of a model card into each folder that it saves to.
    adapted.create_or_update_model_card = _write_no_card  # type: ignore[assignment, method-assign]
    return adapted


def _write_no_card(_folder: str) -> None:
    """Leave the model card to `model_card.py`."""


def load_lora_model(settings: TrainSettings, checkpoint: BaseCheckpoint) -> PeftModel:
    """Load the base model of a run and add LoRA adapters.

    Raises:
        UserError: The weights cannot be loaded, some are missing, or a LoRA target matches no module.
    """
    automatic = torch.bfloat16 if uses_cuda(settings) and torch.cuda.is_bf16_supported() else torch.float32
    dtype = automatic if settings.dtype == "auto" else getattr(torch, settings.dtype)
    base = checkpoint.family.for_training(checkpoint.name, dtype=dtype, attention=settings.attn_implementation)
    base.text_loss_weight = settings.text_weight
    base.loss_chunk_rows = settings.loss_chunk_rows
    return add_lora(
        base,
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        targets=settings.targets(),
    )
