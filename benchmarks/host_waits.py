"""Torch operations whose result the host must wait for, counted where they run.

On a GPU each of these operations stops Python until the device has done all work before it: the size or the value of
the result is known only then. On the CPU the same operations run, and can be counted there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations with a result whose size or Python value depends on the values of a tensor.
VALUE_DEPENDENT = frozenset(
    {
        "_local_scalar_dense",  # item, tolist, bool, int, float
        "is_nonzero",
        "equal",
        "nonzero",
        "nonzero_numpy",
        "argwhere",
        "masked_select",
        "unique_dim",
        "unique_consecutive",
        "_unique",
        "_unique2",
        "bincount",
        "histc",
        "_linalg_check_errors",
    }
)
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})


class HostWaits(TorchDispatchMode):
    """Context that counts operations whose result the host must wait for.

    Attributes:
        counts: Number of calls by operation.

    Example:
        >>> with HostWaits() as waits:
        ...     chosen = torch.arange(4)[torch.tensor([True, False, True, False])]
        >>> waits.counts
        Counter({'index by a boolean mask': 1})
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = waits_for(func, args, kwargs or {})
        if name is not None:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def waits_for(func: Any, args: Any, kwargs: Any) -> str | None:
    """Return the name of an operation whose result the host must wait for, or None."""
    name = func.overloadpacket.__name__
    if name in VALUE_DEPENDENT:
        return str(name)
    if name in _INDEXING and any(_is_mask(index) for index in args[1]):
        return f"{name} by a boolean mask"
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "repeat_interleave without output_size"
    return None


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)
