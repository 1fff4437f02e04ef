"""Forward hooks on the model inside of all wrappers: named arguments and outputs of each forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from higgs_audio_trainer.adapters.adapter import UnreadableError
from higgs_audio_trainer.adapters.logits import HeadLogits, Logits
from higgs_audio_trainer.extraction.streams import ABSENT

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


def prompt_tuned(model: Any) -> PeftModel | None:
    """Return the peft model around a model that is tuned by a soft prompt, or None.

    Such a peft model calls the inner model with embeddings, and the tokens stay outside.
    """
    while isinstance(model, (DistributedDataParallel, DataParallel)) or hasattr(model, "_orig_mod"):
        model = getattr(model, "_orig_mod", None) or model.module
    return model if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning else None


class ForwardHooks:
    """Forward hooks that call back after each requested forward pass, until `remove`.

    A forward pass within a backward pass is a recomputation by gradient checkpointing and is ignored.

    Args:
        model: Model without wrappers.
        is_requested: Function from "has gradients" to True if such a forward pass is requested now. The hooks call the
            function at each pass.
        on_forward: Function of the outputs and of a call that returns the named arguments. Must not raise.
        outer: Peft model that calls the model with embeddings of a soft prompt and of its own `input_ids`; None without
            a soft prompt.
    """

    def __init__(
        self, model: Any, is_requested: Callable[[bool], bool], on_forward: OnForward, outer: PeftModel | None = None
    ) -> None:
        self._model, self._is_requested, self._on_forward = model, is_requested, on_forward
        self._signature = inspect.signature(model.forward)
        self._hidden: Tensor | None = None  # last hidden states of the current pass
        self._tokens: Tensor | None = None  # tokens of the current pass of `outer`
        disable: Any = torch.compiler.disable  # keeps the hooks out of the compiled graph
        self._handles = [model.register_forward_hook(disable(self._after), with_kwargs=True)]
        backbone = getattr(model, "base_model", model)
        if backbone is not model:  # for a loss that is fused with the head and returns no logits
            self._handles.append(backbone.register_forward_hook(disable(self._after_backbone)))
        if outer is not None:
            self._handles.append(outer.register_forward_pre_hook(disable(self._before_outer), with_kwargs=True))

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._hidden = self._tokens = None

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
            self._hidden = self._tokens = None

    def _before_outer(self, _outer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_read():
            tokens = kwargs.get("input_ids", args[0] if args else None)
            self._tokens = tokens if isinstance(tokens, Tensor) else None

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, with the entries of `**kwargs` beside the others."""
        named = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named |= named.pop(name, {})
        return named if self._tokens is None else _with_tokens(named, self._tokens)


def _with_tokens(named: Mapping[str, Any], tokens: Tensor) -> dict[str, Any]:
    """Return the arguments with tokens for embeddings whose first positions are a soft prompt, without a token."""
    embeddings = named.get("inputs_embeds")
    if not isinstance(embeddings, Tensor) or embeddings.shape[1] < tokens.shape[1]:
        return dict(named)
    prompt = embeddings.shape[1] - tokens.shape[1]
    input_ids = F.pad(tokens, (prompt, 0), value=ABSENT)
    mask = named.get("attention_mask")
    is_token = (
        mask.clone() if isinstance(mask, Tensor) and mask.shape == input_ids.shape else torch.ones_like(input_ids)
    )
    is_token[:, :prompt] = 0  # the fingerprint of a sample is that of its tokens
    return {**named, "input_ids": input_ids, "attention_mask": is_token}


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - as in torch's own checkpointing
