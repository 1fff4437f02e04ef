"""How often each token occurs among the supervised slots of a step, on the device.

Shape suffixes: V text vocabulary, C codebook entries, K codebooks; G = 1 + K series: text, then each codebook; N or M
supervised rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.model import SupervisedRows, TrainingOutput
from higgs_audio_trainer.slots import rows_of


class Frequencies:
    """Counts of each token in text and in each codebook, over the micro-batches of a step."""

    def __init__(self) -> None:
        self._counts: list[Tensor] = []  # int32 [1, V] and [K, C]

    def add(self, outputs: TrainingOutput, text_1N: Tensor, audio_KM: Tensor) -> None:
        """Count the tokens of a micro-batch where there are targets.

        Args:
            outputs: what the model returned.
            text_1N: tokens of the text rows, int64 [1, N].
            audio_KM: tokens of the audio rows, int64 [K, M].
        """
        tokens = (text_1N, audio_KM)
        counts = [_count(rows, values) for rows, values in zip(rows_of(outputs), tokens, strict=True)]
        self._counts = list(map(torch.add, self._counts, counts)) if self._counts else counts

    def top(self) -> tuple[Tensor, Tensor]:
        """Find the most frequent token of each series and its share: int64 [G] and float32 [G]."""
        found = [counts.max(-1) for counts in self._counts]
        shares = [most / counts.sum(-1).clamp(min=1) for (most, _), counts in zip(found, self._counts, strict=True)]
        return torch.cat([token for _, token in found]), torch.cat(shares)

    def entropy(self) -> Tensor:
        """Entropy of the frequencies of each series; nats; float32 [G]."""
        shares = [counts / counts.sum(-1, keepdim=True).clamp(min=1) for counts in self._counts]
        return torch.cat([torch.special.entr(share).sum(-1) for share in shares])


def _count(rows: SupervisedRows, tokens_QN: Tensor) -> Tensor:
    is_target_QN = rows.labels.view(tokens_QN.shape) != IGNORE_INDEX
    counts = torch.zeros(len(tokens_QN), rows.logits.shape[-1], dtype=torch.int32, device=tokens_QN.device)
    return counts.scatter_add_(1, tokens_QN.clamp(min=0), is_target_QN.to(torch.int32))
