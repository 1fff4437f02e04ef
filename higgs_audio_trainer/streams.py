"""Text and audio of a batch in one form, whatever the model: rows, labels and what was fed in, position by position.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks (1 for text), V entries of a row of logits;
N supervised rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.data.batch import Vocabulary
from higgs_audio_trainer.events import IGNORE_INDEX, Modality
from higgs_audio_trainer.model import SupervisedRows, TrainingOutput

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


Read = Callable[[Any, Mapping[str, Any]], Sequence[Stream]]


def training_streams(
    outputs: TrainingOutput, batch: Mapping[str, Tensor], *, vocabulary: Vocabulary
) -> tuple[Stream, Stream]:
    """Read text and audio of the model that we train.

    Args:
        outputs: what it returned.
        batch: the tensors that it was given.
        vocabulary: token ids.
    """
    text, audio = outputs.text, outputs.audio
    assert text is not None, "the model returns its supervised rows"
    assert audio is not None
    text_1N, audio_KN = _most_likely(text.logits)[None], _most_likely(audio.logits).T
    is_audio_BS = is_placeholder(batch["input_ids"], vocabulary)
    codes_BSK = placed(batch["audio_input_ids"], is_audio_BS, ABSENT)
    labels_BSK = placed(batch["audio_labels"], is_audio_BS, IGNORE_INDEX)
    labels_BS1, inputs_BS1 = batch["labels"][..., None], batch["input_ids"][..., None]
    return (
        Stream("text", text, text_1N, labels_BS1, inputs_BS1, stops=vocabulary.text_stops),
        Stream("audio", audio, audio_KN, labels_BSK, codes_BSK, stops=(vocabulary.stream_eos,)),
    )


def _most_likely(logits: Tensor) -> Tensor:
    """Return what `argmax(dim=-1)` returns: on the CPU torch takes it four times as long over bfloat16 and float16."""
    return logits.max(dim=-1).indices


def is_placeholder(input_ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Tell which positions hold a frame of audio: bool [B, S]."""
    return torch.stack([input_ids == token for token in vocabulary.placeholders]).any(dim=0)


def placed(frames_BFK: Tensor, is_audio_BS: Tensor, fill: int) -> Tensor:
    """Put frames at their placeholders, in order: [B, S, K]. Nothing waits for the device."""
    # One more frame: there may be none at all.
    frame_BS = (is_audio_BS.cumsum(dim=1) - 1).clamp(0, frames_BFK.shape[1])
    index_BSK = frame_BS[..., None].expand(-1, -1, frames_BFK.shape[2])
    values_BSK = F.pad(frames_BFK, (0, 0, 0, 1), value=fill).gather(1, index_BSK)
    return values_BSK.masked_fill(~is_audio_BS[..., None], fill)


def without_text(audio: Stream) -> Stream:
    """Make the text of a model that has none: the same positions, and nothing at any."""
    nothing = audio.labels_KN[0, :0]
    labels_BS1 = torch.full_like(audio.labels_BSK[..., :1], IGNORE_INDEX)
    logits = torch.zeros(0, 1, device=nothing.device)
    rows = SupervisedRows(logits, nothing, logits[:, 0], nothing, nothing, nothing)
    return Stream("text", rows, nothing[None], labels_BS1, torch.full_like(labels_BS1, ABSENT))
