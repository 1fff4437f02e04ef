"""Logits, labels and cross-entropies of the rows that have a target.

Shape suffixes: K codebooks, V text vocabulary, C codebook entries; N supervised text rows, M supervised audio rows; X
requested rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_ENTRIES = 2**22  # logits of one chunk: 16 MiB of float32


class ComputedLogits:
    """Logits of supervised rows that are computed for the requested rows, because all logits may not fit into memory.

    Args:
        compute: Function from numbers of rows, int64 [X], to the logits of these rows, [X, K, V].
        sizes: N, K and V.
        squeeze: Leave out the codebook axis, for text.

    Attributes:
        shape: [N, V] with `squeeze`, else [N, K, V].

    Example:
        >>> made = torch.tensor([[[0.0, 9.0]], [[7.0, 0.0]]])
        >>> logits = ComputedLogits(made.__getitem__, (2, 1, 2), squeeze=True)
        >>> logits.most_likely(torch.device("cpu")).tolist(), logits.gather(-1, torch.tensor([[0], [0]])).tolist()
        ([1, 0], [[0.0], [7.0]])
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], sizes: tuple[int, int, int], *, squeeze: bool) -> None:
        num_rows, num_codebooks, entries = sizes
        self._compute = compute
        self.shape = torch.Size((num_rows, entries) if squeeze else sizes)
        self.step = max(1, _MAX_ENTRIES // max(1, num_codebooks * entries))  # rows of a chunk

    def rows(self, index: Tensor) -> Tensor:
        """Return the logits of rows, [X, (K,) V]."""
        logits_XKV = self._compute(index)
        return logits_XKV if len(self.shape) == logits_XKV.ndim else logits_XKV[:, 0]

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """Return the logits at indices [N, (K,) R] of the last dimension, like `Tensor.gather`; float32 [N, (K,) R]."""
        assert dim == -1
        return self._in_chunks(lambda rows: self.rows(rows).gather(-1, index[rows]).float(), index)

    def most_likely(self, device: torch.device) -> Tensor:
        """Return the most likely token of each row, int64 [N, (K)]."""
        nothing = torch.zeros((0, *self.shape[1:-1]), dtype=torch.long, device=device)
        return self._in_chunks(lambda rows: self.rows(rows).max(dim=-1).indices, nothing)

    def _in_chunks(self, of_rows: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        numbers = torch.arange(self.shape[0], device=like.device)
        return torch.cat([of_rows(part) for part in numbers.split(self.step)])

    def __getitem__(self, at: tuple[Tensor, ...]) -> Tensor:
        """Return the logits of requested rows, and of one codebook at each row, [X, V]."""
        index, *codebook = at
        logits = self.rows(index)
        return logits[torch.arange(len(index), device=index.device), codebook[0]] if codebook else logits


@dataclass(slots=True)
class SupervisedRows:
    """Logits of one modality at the supervised rows, with the place of each row in the batch.

    The class is neither a mapping nor a tuple on purpose: accelerate casts the tensors of mappings and tuples to
    float32, which would copy every logit under mixed precision.

    Attributes:
        logits: Text [N, V], audio [M, K, C]. A tensor, or logits that are computed when they are read.
        labels: Text [N], audio [K, M]; int64; in audio -100 where a codebook has no target in a row.
        nll: Cross-entropy of each label, float32, same shape as `labels`, detached; 0 for a masked label.
        batch_index: Sample of each row in the batch, int64 [N] or [M].
        position: Position p of the label, int64 [N] or [M].
        row: Position of the input that made the logits, p - 1 in an aligned model, int64 [N] or [M]. The log reads the
            position from here without an assumption, so that the log shows a row compared with the wrong label.
    """

    logits: Tensor | ComputedLogits
    labels: Tensor
    nll: Tensor
    batch_index: Tensor
    position: Tensor
    row: Tensor

    def most_likely(self) -> Tensor:
        """Return the most likely token of each row, int64 [N] or [M, K]."""
        if isinstance(self.logits, ComputedLogits):
            return self.logits.most_likely(self.row.device)
        # `max` returns the indices of `argmax` in a quarter of the time over bfloat16 and float16 on the CPU.
        return self.logits.max(dim=-1).indices
