"""Forward hooks on the model inside of all wrappers: named arguments and outputs of each forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from higgs_audio_trainer.adapters.adapter import UnreadableError
from higgs_audio_trainer.adapters.logits import HeadLogits, Logits

OnForward = Callable[[Any, Callable[[], dict[str, Any]]], None]


def unwrapped(model: Any) -> Any:
    """Return the model inside of DDP, peft and torch.compile, whose outputs an adapter knows.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> unwrapped(DataParallel(linear)) is linear
        True
    """
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            inner = model.module
        elif isinstance(model, PeftModel):
            inner = model.get_base_model()
        else:
            inner = getattr(model, "_orig_mod", None)  # torch.compile
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class ForwardHooks:
    """Forward hooks that call back after each requested forward pass, until `remove`.

    A forward pass within a backward pass is a recomputation by gradient checkpointing and is ignored.

    Args:
        model: Model without wrappers.
        is_requested: Function from "has gradients" to True if such a forward pass is requested now. The hooks call the
            function at each pass.
        on_forward: Function of the outputs and of a call that returns the named arguments. Must not raise.
    """

    def __init__(self, model: Any, is_requested: Callable[[bool], bool], on_forward: OnForward) -> None:
        self._model, self._is_requested, self._on_forward = model, is_requested, on_forward
        self._signature = inspect.signature(model.forward)
        self._hidden: Tensor | None = None  # last hidden states of the current pass
        disable: Any = torch.compiler.disable  # keeps the hooks out of the compiled graph
        self._handles = [model.register_forward_hook(disable(self._after), with_kwargs=True)]
        backbone = getattr(model, "base_model", model)
        if backbone is not model:  # for a loss that is fused with the head and returns no logits
            self._handles.append(backbone.register_forward_hook(disable(self._after_backbone)))

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._hidden = None

    def head_logits(self) -> Logits:
        """Return text logits, computed from the last hidden states of the current pass.

        Raises:
            UnreadableError: The model returned no hidden states, or has no head.
        """
        head = self._model.get_output_embeddings() if hasattr(self._model, "get_output_embeddings") else None
        if self._hidden is None or head is None:
            raise UnreadableError("expected logits, or hidden states and an output head to compute logits, got neither")
        return HeadLogits(self._hidden, head, getattr(self._model, "config", None))

    def _is_read(self) -> bool:
        return self._is_requested(torch.is_grad_enabled()) and not _in_backward()

    def _after_backbone(self, _backbone: nn.Module, _args: tuple[Any, ...], outputs: Any) -> None:
        if self._is_read():
            hidden = getattr(outputs, "last_hidden_state", None)
            self._hidden = hidden.detach() if isinstance(hidden, Tensor) else None

    def _after(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if self._is_read():
            self._on_forward(outputs, partial(self._named, args, kwargs))
            self._hidden = None

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, with the entries of `**kwargs` beside the others."""
        named = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named |= named.pop(name, {})
        return named


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - as in torch's own checkpointing
