"""Logits where they are asked for: of a tensor that the model made, or made from its last hidden states.

Shape suffixes: B batch, S sequence, K codebooks, V vocabulary, H hidden; X positions asked for.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


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

    def __getitem__(self, at: tuple[Tensor, ...]) -> Tensor:
        """Return the logits of some positions, and of a codebook at each: [X, V]."""
        index, *codebook = at
        logits_XKV = self._logits.at(self._batch_index[index], self._row[index])
        if not codebook:
            return logits_XKV[:, 0]
        return logits_XKV[torch.arange(len(index), device=index.device), codebook[0]]
