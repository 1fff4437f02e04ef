"""Memory of a training step, counted without memory: the model's own forward and backward pass over fake tensors.

A formula for the activations of a transformer (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
Transformer Models", https://arxiv.org/abs/2205.05198) would have to know each module, each adapter, autocast,
checkpointing and the chunks of the loss. Fake tensors (`torch._subclasses`) have shapes and data types and no values,
so the step itself runs, on any machine, and each tensor is counted from the operation that makes the tensor until its
storage is freed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_DEVICE = torch.device("cpu")  # of the fake tensors, since no build of torch lacks the CPU


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count of the bytes of all storages that operations make, while a block runs.

    Attributes:
        now: Bytes that are alive.
        peak: Most bytes that were alive at a time.

    Args:
        before: Tensors that do not count, nor do their views.

    Example:
        >>> with LiveMemory() as live:
        ...     kept = torch.ones(1024) + torch.ones(1024)
        >>> live.now, live.peak
        (4096, 12288)
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what the operation made."""
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return output

    def _add(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


@contextmanager
def fake_model(model: nn.Module) -> Iterator[FakeTensorMode]:
    """Turn the tensors of a model on the meta device into fake tensors, and run the block over fake tensors.

    Args:
        model: Model, changed in place. Tied parameters stay tied.
    """
    mode = FakeTensorMode()
    made: dict[int, Any] = {}

    def fake(tensor: Tensor) -> Any:
        return mode.fake_tensor_converter.from_meta_and_device(mode, tensor, _DEVICE)

    for module in model.modules():
        for name, parameter in module._parameters.items():  # noqa: SLF001 - assignment would look the name up again
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(fake(parameter.data), requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]  # noqa: SLF001
        for name, buffer in module._buffers.items():  # noqa: SLF001
            if buffer is not None:
                module._buffers[name] = fake(buffer)  # noqa: SLF001
    with mode:
        yield mode


def step_peak(model: nn.Module, loss_of: Callable[[], Tensor], before: Iterable[Tensor]) -> int:
    """Return the most bytes that a forward and backward pass needs at a time, beside weights and gradients.

    Args:
        model: Model. Each gradient is freed as soon as the gradient is complete.
        loss_of: Forward pass.
        before: Tensors that do not count: weights and inputs.
    """
    hooks = [
        parameter.register_post_accumulate_grad_hook(_without_gradient)  # type: ignore[no-untyped-call]
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    try:
        with LiveMemory(before) as live:
            loss_of().backward()  # type: ignore[no-untyped-call]
        peak: int = live.peak
        return peak
    finally:
        for hook in hooks:
            hook.remove()


def _without_gradient(parameter: Tensor) -> None:
    parameter.grad = None
