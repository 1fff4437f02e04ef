"""Adapters that start from the weights of the model (PiSSA, OLoRA), saved as plain LoRA adapters.

Such a start takes A0 and B0 from a weight W, and trains on W - s B0 A0. An adapter that held A and B alone would need
the changed weights. The saved adapter holds [A; A0] and [B, -B0] of twice the rank, so that W + s (B A - B0 A0) is the
trained weight, and plain peft loads the adapter on the base checkpoint as it is.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from torch import Tensor

_NAME = "default"
_MARKS = (".lora_A.", ".lora_B.")


def saved_rank(r: int, start: str) -> int:
    """Return the rank of a saved adapter.

    Args:
        r: Rank of the adapter in training.
        start: `init_lora_weights` of the training.

    Example:
        >>> saved_rank(16, "true"), saved_rank(16, "pissa")
        (16, 32)
    """
    return 2 * r if changes_weights(start) else r


def changes_weights(start: str | bool | None) -> bool:
    """Return True if a start of adapters changes the weights of the base model.

    Args:
        start: `init_lora_weights` of peft.
    """
    return isinstance(start, str) and (start == "olora" or start.startswith("pissa"))


class ConvertedPeftModel(PeftModel):
    """Model with adapters that started from its weights. Saves and loads the plain form of the adapters.

    Args:
        model: Base model, whose weights are changed.
        config: Configuration of the adapters.
    """

    def __init__(self, model: Any, config: LoraConfig) -> None:
        config.base_model_name_or_path = getattr(model, "name_or_path", None) or None
        super().__init__(model, config)
        weights = self.state_dict()
        self._start = {
            name: tensor.detach().cpu().clone()
            for name, tensor in weights.items()
            if any(mark in name for mark in _MARKS) and name.endswith(".weight")
        }

    def save_pretrained(self, save_directory: str, *args: Any, state_dict: Any = None, **kwargs: Any) -> None:
        """Save the plain form of the adapters.

        Args:
            save_directory: Folder to write to.
            *args: Arguments of peft.
            state_dict: Weights of the model. None for the weights as they are.
            **kwargs: Arguments of peft.
        """
        weights = self.state_dict() if state_dict is None else state_dict
        plain = {name: self._with_start(name, tensor) for name, tensor in weights.items()}
        config: Any = self.peft_config[_NAME]
        self.peft_config[_NAME] = _plain(config)
        try:
            super().save_pretrained(save_directory, *args, state_dict=plain, **kwargs)
        finally:
            self.peft_config[_NAME] = config

    def load_adapter(self, model_id: Any, adapter_name: str = _NAME, *args: Any, **kwargs: Any) -> Any:
        """Load adapters that `save_pretrained` saved, with their start.

        The base model then has the weights that the adapters were trained on: bit by bit if this model has the same
        start, as on the same machine, and else up to rounding.

        Args:
            model_id: Folder of the adapters.
            adapter_name: Name of the adapters.
            *args: Arguments of peft, without effect.
            **kwargs: Arguments of peft, without effect.
        """
        del args, kwargs
        saved = load_peft_weights(model_id, device="cpu")
        trained, start = {}, {}
        for name, tensor in saved.items():
            if not any(mark[:-1] in name for mark in _MARKS) or not name.endswith(".weight"):
                trained[name] = tensor
                continue
            halves = tensor.chunk(2, dim=0 if _MARKS[0][:-1] in name else 1)
            trained[name] = halves[0].contiguous()
            sign = 1 if _MARKS[0][:-1] in name else -1
            start[f"{name.removesuffix('.weight')}.{adapter_name}.weight"] = sign * halves[1].contiguous()
        self._start_again(start)
        return set_peft_model_state_dict(self, trained, adapter_name=adapter_name)

    def _with_start(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._start:
            return tensor
        start = self._start[name].to(tensor)
        return torch.cat([tensor, start]) if _MARKS[0] in name else torch.cat([tensor, -start], dim=1)

    @torch.no_grad()
    def _start_again(self, start: dict[str, Tensor]) -> None:
        """Change the weights of the base model to those of another start."""
        for path, module in self.named_modules():
            if not isinstance(module, LoraLayer) or _NAME not in module.lora_A:
                continue
            names = [f"{path}.{part}.{_NAME}.weight" for part in ("lora_A", "lora_B")]
            before, now = [self._start[name] for name in names], [start[name] for name in names]
            if all(map(torch.equal, before, now)):
                continue
            layer: Any = module.get_base_layer()
            shift = module.scaling[_NAME] * (before[1] @ before[0] - now[1] @ now[0])
            layer.weight.copy_(layer.weight.float() + shift.to(layer.weight.device))
        self._start = start


def _plain(config: LoraConfig) -> LoraConfig:
    """Return the configuration of the plain form: twice the rank, the same scale."""
    plain = copy.deepcopy(config)
    plain.init_lora_weights = True
    plain.r *= 2
    factor = math.sqrt(2) if config.use_rslora else 2
    plain.lora_alpha *= factor  # type: ignore[assignment]  # peft takes any number
    plain.rank_pattern = {key: 2 * rank for key, rank in (config.rank_pattern or {}).items()}
    plain.alpha_pattern = {key: factor * alpha for key, alpha in (config.alpha_pattern or {}).items()}
    return plain
