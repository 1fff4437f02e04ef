"""Text and audio of a batch in one form for every model: rows, labels and inputs by position.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks (1 for text), V entries of a row of logits;
N supervised rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX, Modality
from higgs_audio_trainer.extraction.rows import SupervisedRows

ABSENT = -1  # marks a position without a token


@dataclass(frozen=True, slots=True)
class Stream:
    """One modality of a micro-batch.

    Attributes:
        modality: Text or audio.
        rows: Supervised rows.
        predictions_KN: Most likely token of each row, int64 [K, N].
        labels_BSK: Label at each position, int64, -100 where masked.
        inputs_BSK: Input token at each position, int64, `ABSENT` at a position without a token of this modality.
        shift: The row at position p - shift predicts position p.
        stops: Stop tokens among the labels.
    """

    modality: Modality
    rows: SupervisedRows
    predictions_KN: Tensor
    labels_BSK: Tensor
    inputs_BSK: Tensor
    shift: int = 1
    stops: Sequence[int] = ()

    @property
    def is_text(self) -> bool:
        """True for text. The rows of text have no codebook axis."""
        return self.modality == "text"

    @property
    def labels_KN(self) -> Tensor:  # noqa: N802 - its shape
        """Labels of the rows, int64 [K, N], with a codebook axis for text too."""
        return self.rows.labels.view(self.predictions_KN.shape)

    @property
    def nll_KN(self) -> Tensor:  # noqa: N802 - its shape
        """Cross-entropies of the rows, float32 [K, N], with a codebook axis for text too."""
        return self.rows.nll.view(self.predictions_KN.shape)


def empty_text_stream(audio: Stream) -> Stream:
    """Return an empty text stream for a model without text.

    Args:
        audio: Audio stream with the positions of the batch.
    """
    nothing = audio.labels_KN[0, :0]
    labels_BS1 = torch.full_like(audio.labels_BSK[..., :1], IGNORE_INDEX)
    logits = torch.zeros(0, 1, device=nothing.device)
    rows = SupervisedRows(logits, nothing, logits[:, 0], nothing, nothing, nothing)
    return Stream("text", rows, nothing[None], labels_BS1, torch.full_like(labels_BS1, ABSENT))
