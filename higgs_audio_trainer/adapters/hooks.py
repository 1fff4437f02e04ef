"""Forward hooks on the model inside of all wrappers: what it was given by name, and what it returned."""

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
    """Return the model within DDP, peft and torch.compile: its forward pass is the one whose outputs are known."""
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
    """Calls back after each forward pass that is to be read, until it is removed.

    One within a backward pass is checkpointing's, which computes the same again: it is not read.

    Args:
        model: unwrapped.
        is_due: whether passes with gradients, or those without, are to be read at present; asked at each.
        on_forward: given what the model returned, and a call that names its arguments; it raises nothing.
    """

    def __init__(self, model: Any, is_due: Callable[[bool], bool], on_forward: OnForward) -> None:
        self._model, self._is_due, self._on_forward = model, is_due, on_forward
        self._signature = inspect.signature(model.forward)
        self._hidden: Tensor | None = None  # of the pass in progress
        disable: Any = torch.compiler.disable  # what a compiled model calls is not compiled with it
        self._handles = [model.register_forward_hook(disable(self._after), with_kwargs=True)]
        backbone = getattr(model, "base_model", model)
        if backbone is not model:  # for a loss that is fused with the head, and returns no logits
            self._handles.append(backbone.register_forward_hook(disable(self._after_backbone)))

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._hidden = None

    def head_logits(self) -> Logits:
        """Make logits of text from the last hidden states of the pass in progress.

        Raises:
            UnreadableError: there are none, or no head.
        """
        head = self._model.get_output_embeddings() if hasattr(self._model, "get_output_embeddings") else None
        if self._hidden is None or head is None:
            raise UnreadableError("expected logits, or hidden states and a head to make them of, got neither")
        return HeadLogits(self._hidden, head, getattr(self._model, "config", None))

    def _is_read(self) -> bool:
        return self._is_due(torch.is_grad_enabled()) and not _in_backward()

    def _after_backbone(self, _backbone: nn.Module, _args: tuple[Any, ...], outputs: Any) -> None:
        if self._is_read():
            hidden = getattr(outputs, "last_hidden_state", None)
            self._hidden = hidden.detach() if isinstance(hidden, Tensor) else None

    def _after(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if self._is_read():
            self._on_forward(outputs, partial(self._named, args, kwargs))
            self._hidden = None

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call; those that a `**kwargs` took are beside the others."""
        named = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named |= named.pop(name, {})
        return named


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch's own checkpointing asks the same way
