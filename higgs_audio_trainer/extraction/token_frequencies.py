"""Frequency of each token among the supervised slots of a step, on the device.

Shape suffixes: V text vocabulary, C codebook entries, K codebooks; G = 1 + K series: text, then each codebook; N
supervised rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.streams import Stream


class TokenFrequencies:
    """Counts of each token, in the text and in each codebook, over the micro-batches of a step."""

    def __init__(self) -> None:
        self._counts: list[Tensor] = []  # int32 [1, V] and [K, C]

    def add(self, streams: Sequence[Stream], tokens_KN: Sequence[Tensor]) -> None:
        """Count the tokens of a micro-batch in the supervised slots.

        Args:
            streams: Streams of the micro-batch.
            tokens_KN: Tokens of the rows of each stream, int64.
        """
        counts = [_count(stream, tokens) for stream, tokens in zip(streams, tokens_KN, strict=True)]
        self._counts = list(map(torch.add, self._counts, counts)) if self._counts else counts

    def top(self) -> tuple[Tensor, Tensor]:
        """Return the most frequent token of each series and the share of that token, int64 [G] and float32 [G]."""
        most = [counts.max(-1) for counts in self._counts]
        shares = [top / counts.sum(-1).clamp(min=1) for (top, _), counts in zip(most, self._counts, strict=True)]
        return torch.cat([token for _, token in most]), torch.cat(shares)

    def entropy(self) -> Tensor:
        """Return the entropy of the frequencies of each series in nats, float32 [G]."""
        shares = [counts / counts.sum(-1, keepdim=True).clamp(min=1) for counts in self._counts]
        return torch.cat([torch.special.entr(share).sum(-1) for share in shares])


def _count(stream: Stream, tokens_KN: Tensor) -> Tensor:
    is_target_KN = stream.labels_KN != IGNORE_INDEX
    size = (len(tokens_KN), stream.rows.logits.shape[-1])
    counts = torch.zeros(size, dtype=torch.int32, device=tokens_KN.device)
    return counts.scatter_add_(1, tokens_KN.clamp(min=0), is_target_KN.to(torch.int32))
