"""Transfer of the gathered tensors from the device to the host, in one copy per logged step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_host(ints: Sequence[Tensor], floats: Sequence[Tensor]) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Copy tensors to the host in one transfer, integers as int32 and floats bit by bit.

    Args:
        ints: Integer tensors. All values must fit into int32.
        floats: Tensors of float32 or float64.

    Returns:
        Arrays of int32 and arrays of the original float dtypes, in the shapes of the tensors.

    Example:
        >>> (ints,), (floats,) = to_host([torch.tensor([1, 2])], [torch.tensor([[0.5]])])
        >>> ints.tolist(), floats.tolist()
        ([1, 2], [[0.5]])
    """
    parts = [*(tensor.to(torch.int32) for tensor in ints), *(tensor.contiguous().view(-1) for tensor in floats)]
    packed = on_host(torch.cat([part.reshape(-1).view(torch.int32) for part in parts])).numpy()
    sizes = [part.numel() * part.element_size() // 4 for part in parts]
    pieces = np.split(packed, np.cumsum(sizes)[:-1])
    host_ints = [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, ints, strict=False)]
    host_floats = [
        piece.view(np.float64 if tensor.dtype == torch.float64 else np.float32).reshape(tensor.shape)
        for piece, tensor in zip(pieces[len(ints) :], floats, strict=True)
    ]
    return host_ints, host_floats


def on_host(packed: Tensor) -> Tensor:
    """Return a tensor on the host. A logged step waits for the device only here."""
    return packed.cpu()
