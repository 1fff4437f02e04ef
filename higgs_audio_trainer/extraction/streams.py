"""Text and audio of a batch in one form, whatever the model: rows, labels and what was fed in, position by position.

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

ABSENT = -1  # there is no token here


@dataclass(frozen=True, slots=True)
class Stream:
    """One modality of a micro-batch.

    Attributes:
        modality: text or audio.
        rows: the rows that have a target.
        predictions_KN: what they predict, int64 [K, N].
        labels_BSK: label at each position, int64, -100 where masked.
        inputs_BSK: token fed in at each position, int64, `ABSENT` where there is none of this modality.
        shift: the row at position p - shift predicts p.
        stops: labels that are stop tokens.
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
        """Text has one codebook, and no axis for it in its rows."""
        return self.modality == "text"

    @property
    def labels_KN(self) -> Tensor:  # noqa: N802 - its shape
        """Labels of the rows."""
        return self.rows.labels.view(self.predictions_KN.shape)

    @property
    def nll_KN(self) -> Tensor:  # noqa: N802 - its shape
        """Cross-entropies of the rows."""
        return self.rows.nll.view(self.predictions_KN.shape)


def empty_text_stream(audio: Stream) -> Stream:
    """Make the text of a model that has none: the same positions, and nothing at any."""
    nothing = audio.labels_KN[0, :0]
    labels_BS1 = torch.full_like(audio.labels_BSK[..., :1], IGNORE_INDEX)
    logits = torch.zeros(0, 1, device=nothing.device)
    rows = SupervisedRows(logits, nothing, logits[:, 0], nothing, nothing, nothing)
    return Stream("text", rows, nothing[None], labels_BS1, torch.full_like(labels_BS1, ABSENT))
