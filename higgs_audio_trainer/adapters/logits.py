"""Logits where they are asked for: of a tensor that the model made, or made from its last hidden states.

Shape suffixes: B batch, S sequence, K codebooks, V vocabulary, H hidden; X positions asked for.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

MOST_ENTRIES = 2**22  # logits that are looked at together: 16 MiB of float32


@runtime_checkable
class Logits(Protocol):
    """Logits [B, S, K, V], looked up."""

    shape: torch.Size
    device: torch.device

    def at(self, batch_index: Tensor, row: Tensor) -> Tensor:
        """Return [X, K, V]."""


class MadeLogits:
    """Logits that the model returned.

    Args:
        logits_BSKV: any float, detached.
    """

    def __init__(self, logits_BSKV: Tensor) -> None:
        self._logits = logits_BSKV
        self.shape, self.device = logits_BSKV.shape, logits_BSKV.device

    def at(self, batch_index: Tensor, row: Tensor) -> Tensor:
        """Return [X, K, V]."""
        return self._logits[batch_index, row]


class HeadLogits:
    """Logits of a language model that fuses its head with the loss and returns none.

    Args:
        hidden_BSH: last hidden states, detached.
        head: makes logits of them.
        config: some models scale or cap what the head makes.
    """

    def __init__(self, hidden_BSH: Tensor, head: nn.Module, config: Any) -> None:
        self._hidden, self._head = hidden_BSH, head
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self._factor = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
        self._cap = getattr(text, "final_logit_softcapping", None)
        weight: Any = head.weight
        sizes = (*hidden_BSH.shape[:2], 1, int(weight.shape[0]))
        self.shape, self.device = torch.Size(sizes), hidden_BSH.device

    def at(self, batch_index: Tensor, row: Tensor) -> Tensor:
        """Return [X, 1, V]."""
        logits_XV: Tensor = self._head(self._hidden[batch_index, row]) * self._factor
        if self._cap:
            logits_XV = torch.tanh(logits_XV / self._cap) * self._cap
        return logits_XV.unsqueeze(1)


class DepthLogits:
    """Logits of a model that makes a frame's first codebook itself and has a depth decoder make the others.

    Args:
        first_BSV: of the first codebook; the row at position p - 1 predicts the frame at p.
        depth_NJV: of the other codebooks, of some frames, in order; J is K - 1.
        is_frame_BS: which positions hold those frames, bool, N of them.
    """

    def __init__(self, first_BSV: Tensor, depth_NJV: Tensor, is_frame_BS: Tensor) -> None:
        self._first, self._depth = first_BSV, depth_NJV
        self._frame_BS = (is_frame_BS.flatten().cumsum(0) - 1).view(is_frame_BS.shape)
        sizes = (*first_BSV.shape[:2], 1 + depth_NJV.shape[1], first_BSV.shape[2])
        self.shape, self.device = torch.Size(sizes), first_BSV.device

    def at(self, batch_index: Tensor, row: Tensor) -> Tensor:
        """Return [X, K, V]; of a frame that the depth decoder passed over, the first codebook alone means anything."""
        first_X1V = self._first[batch_index, row][:, None]
        if not len(self._depth):
            return first_X1V.expand(-1, self.shape[2], -1)
        frame_X = self._frame_BS[batch_index, (row + 1).clamp(max=self._frame_BS.shape[1] - 1)].clamp(min=0)
        return torch.cat([first_X1V, self._depth[frame_X]], dim=1)


class LogitsAt:
    """The logits of supervised positions, made or looked up one by one: all of them may not fit.

    Args:
        logits: of the batch.
        batch_index, row: of each supervised position, int64 [N].
        squeeze: there is one codebook, and no axis for it.

    Attributes:
        shape: [N, V], or [N, K, V].
    """

    def __init__(self, logits: Logits, batch_index: Tensor, row: Tensor, *, squeeze: bool) -> None:
        self._logits, self._batch_index, self._row = logits, batch_index, row
        self.shape = torch.Size((len(row), *logits.shape[3 if squeeze else 2 :]))

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """Return what `Tensor.gather` returns along the last dimension: of [N, (K,) R] indices as many logits."""
        assert dim == -1
        step = max(1, MOST_ENTRIES // max(1, self._logits.shape[2] * self._logits.shape[3]))
        found = [index.new_zeros((0, *index.shape[1:]), dtype=torch.float32)]
        for begin in range(0, len(index), step):
            part = slice(begin, begin + step)
            logits_XKV = self._logits.at(self._batch_index[part], self._row[part])
            logits = logits_XKV if index.ndim == logits_XKV.ndim else logits_XKV[:, 0]
            found.append(logits.gather(-1, index[part]).float())
        return torch.cat(found)

    def __getitem__(self, at: tuple[Tensor, ...]) -> Tensor:
        """Return the logits of some positions, and of a codebook at each: [X, V]."""
        index, *codebook = at
        logits_XKV = self._logits.at(self._batch_index[index], self._row[index])
        if not codebook:
            return logits_XKV[:, 0]
        return logits_XKV[torch.arange(len(index), device=index.device), codebook[0]]
