"""Logits at requested positions, from a tensor of the model or from the last hidden states.

Shape suffixes: B batch, S sequence, K codebooks, V vocabulary, H hidden; X requested positions.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Logits(Protocol):
    """Logits of a batch, [B, S, K, V], read by position.

    Attributes:
        shape: [B, S, K, V].
        device: Device of the logits.
    """

    shape: torch.Size
    device: torch.device

    def at(self, batch_index: Tensor, row: Tensor) -> Tensor:
        """Return the logits at the given samples and rows, [X, K, V]."""


class MadeLogits:
    """Logits that the model returned.

    Args:
        logits_BSKV: Logits of any float dtype, detached.

    Example:
        >>> logits = MadeLogits(torch.zeros(2, 3, 1, 5))
        >>> logits.at(torch.tensor([0, 1]), torch.tensor([2, 0])).shape
        torch.Size([2, 1, 5])
    """

    def __init__(self, logits_BSKV: Tensor) -> None:
        self._logits = logits_BSKV
        self.shape, self.device = logits_BSKV.shape, logits_BSKV.device

    def at(self, batch_index: Tensor, row: Tensor) -> Tensor:
        """Return the logits at the given samples and rows, [X, K, V]."""
        return self._logits[batch_index, row]


class HeadLogits:
    """Logits of a language model that fuses the head with the loss and returns no logits.

    Args:
        hidden_BSH: Last hidden states, detached.
        head: Output head of the model, from hidden states to logits.
        config: Configuration of the model, for models that scale or cap the logits.
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
        """Return the logits at the given samples and rows, [X, 1, V]."""
        logits_XV: Tensor = self._head(self._hidden[batch_index, row]) * self._factor
        if self._cap:
            logits_XV = torch.tanh(logits_XV / self._cap) * self._cap
        return logits_XV.unsqueeze(1)


class DepthLogits:
    """Logits of a model that predicts the first codebook of a frame, and whose depth decoder predicts the others.

    Args:
        first_BSV: Logits of the first codebook. The row at position p - 1 predicts the frame at p.
        depth_NJV: Logits of the other codebooks for N frames, in order; J is K - 1.
        is_frame_BS: True at the positions of the N frames, bool.
    """

    def __init__(self, first_BSV: Tensor, depth_NJV: Tensor, is_frame_BS: Tensor) -> None:
        self._first, self._depth = first_BSV, depth_NJV
        self._frame_BS = (is_frame_BS.flatten().cumsum(0) - 1).view(is_frame_BS.shape)
        sizes = (*first_BSV.shape[:2], 1 + depth_NJV.shape[1], first_BSV.shape[2])
        self.shape, self.device = torch.Size(sizes), first_BSV.device

    def at(self, batch_index: Tensor, row: Tensor) -> Tensor:
        """Return the logits [X, K, V]. Without depth logits for a frame, only the first codebook is meaningful."""
        first_X1V = self._first[batch_index, row][:, None]
        if not len(self._depth):
            return first_X1V.expand(-1, self.shape[2], -1)
        frame_X = self._frame_BS[batch_index, (row + 1).clamp(max=self._frame_BS.shape[1] - 1)].clamp(min=0)
        return torch.cat([first_X1V, self._depth[frame_X]], dim=1)
