"""The part of a training forward pass that all families share: heads and losses on supervised rows only.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks, H hidden; N tokens in the order of the route; R
supervised text rows, M supervised audio rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from higgs_audio_trainer.data.route import Route
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.rows import ComputedLogits, SupervisedRows
from higgs_audio_trainer.families.loss import score


@dataclass
class TrainingOutput(ModelOutput):
    """Losses and supervised rows of a forward pass.

    Attributes:
        loss: Loss, text_loss_weight * text_loss + audio_loss; float32 scalar.
        text_loss: Loss of the text; float32 scalar.
        audio_loss: Mean of `audio_loss_K`; float32 scalar.
        audio_loss_K: Loss of each codebook; float32 [K].
        text: Supervised text rows.
        audio: Supervised audio rows.
    """

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    audio_loss: Tensor | None = None
    audio_loss_K: Tensor | None = None
    text: SupervisedRows | None = None
    audio: SupervisedRows | None = None

    def sums(self) -> Tensor:
        """Return sums of cross-entropies and numbers of targets, float32 [2, 1 + K]; text, then each codebook."""
        assert self.text is not None, "the model returns its supervised rows"
        assert self.audio is not None
        nll = torch.cat([self.text.nll.sum().reshape(1), self.audio.nll.sum(dim=-1)])
        targets = torch.cat([(rows.labels != IGNORE_INDEX).sum(dim=-1).reshape(-1) for rows in (self.text, self.audio)])
        return torch.stack([nll, targets.to(nll.dtype)])


class TrainingForward:
    """Losses and supervised rows from the hidden states of a backbone. A base class of each family's model.

    Attributes:
        config: Configuration of the model, with `vocab_size` and `codebook_size`.
        text_loss_weight: Weight of the text loss in the loss.
        loss_chunk_rows: Largest number of rows whose logits are in memory at a time. None for 256 MiB of logits.
    """

    #: Without this flag, `transformers.Trainer` divides the loss by the number of micro-batches.
    accepts_loss_kwargs = True
    config: Any
    text_loss_weight: float = 1.0
    loss_chunk_rows: int | None = None

    @property
    def text_head(self) -> nn.Module:
        """Module from hidden states to the logits of the text."""
        raise NotImplementedError

    @property
    def audio_head_module(self) -> nn.Module:
        """Module from hidden states to the logits of all codebooks."""
        raise NotImplementedError

    @property
    def text_size(self) -> int:
        """Number of logits of a text row, V."""
        return int(self.config.vocab_size)

    @property
    def audio_size(self) -> int:
        """Number of logits of a codebook in an audio row, C."""
        return int(self.config.codebook_size)

    def losses(
        self, hidden_NH: Tensor, labels: Tensor, audio_labels: Tensor, route: Route, num_targets: Tensor | None
    ) -> TrainingOutput:
        """Return the losses, and the logits of the rows with a target. Nothing waits for the device.

        The row at position p-1 predicts position p. Each loss is a sum of cross-entropies divided by `num_targets`.
        A modality or codebook without a target contributes 0.

        Args:
            hidden_NH: Last hidden states in the order of the route.
            labels: Text labels, int64 [B, S], -100 where masked. The label at p is the token at p.
            audio_labels: Audio labels, int64 [B, F, K], -100 where masked.
            route: Route of the batch. A label counts if the route has its row.
            num_targets: Divisors of the losses, [1 + K], text and then each codebook. By default, the targets of this
                batch. A trainer passes the targets of the whole optimizer step.
        """
        text = self._text_rows(hidden_NH, labels, route)
        audio = self._audio_rows(hidden_NH, labels, audio_labels, route)
        if num_targets is None:
            num_targets = count_targets(labels, audio_labels)
        return self._output(text, audio, num_targets.clamp(min=1).to(torch.float32))

    def _output(
        self, text: tuple[SupervisedRows, Tensor], audio: tuple[SupervisedRows, Tensor], divisors: Tensor
    ) -> TrainingOutput:
        """Return rows and losses, from the rows and the sums of cross-entropies of each modality."""
        text_loss = text[1] / divisors[0]
        audio_loss_K = audio[1] / divisors[1:]
        audio_loss = audio_loss_K.mean()
        return TrainingOutput(
            loss=self.text_loss_weight * text_loss + audio_loss,
            text_loss=text_loss.detach(),
            audio_loss=audio_loss.detach(),
            audio_loss_K=audio_loss_K.detach(),
            text=text[0],
            audio=audio[0],
        )

    def _text_rows(self, hidden_NH: Tensor, labels: Tensor, route: Route) -> tuple[SupervisedRows, Tensor]:
        rows = route["text_rows"]
        places = route["places"].index_select(0, rows)
        labels_R1 = labels.flatten().index_select(0, places + 1)[:, None]
        logits, nll_R1 = score(
            self.text_head,
            hidden_NH.index_select(0, rows),
            labels_R1,
            num_logits=self.text_size,
            chunk_rows=self.loss_chunk_rows,
            squeeze=True,
        )
        return _supervised(logits, labels_R1[:, 0], nll_R1[:, 0], places, labels.shape[1]), nll_R1.sum()

    def _audio_rows(
        self, hidden_NH: Tensor, labels: Tensor, audio_labels: Tensor, route: Route
    ) -> tuple[SupervisedRows, Tensor]:
        rows = route["audio_rows"]
        labels_MK = audio_labels.flatten(0, 1).index_select(0, route["audio_targets"])
        logits, nll_MK = score(
            self.audio_head_module,
            hidden_NH.index_select(0, rows),
            labels_MK,
            num_logits=audio_labels.shape[-1] * self.audio_size,
            chunk_rows=self.loss_chunk_rows,
            squeeze=False,
        )
        nll_KM = nll_MK.T.contiguous()
        rows_KM = _supervised(logits, labels_MK.T, nll_KM, route["places"].index_select(0, rows), labels.shape[1])
        return rows_KM, nll_KM.sum(dim=-1)


def _supervised(
    logits: Tensor | ComputedLogits, labels: Tensor, nll: Tensor, places: Tensor, length: int
) -> SupervisedRows:
    """Return the rows at places of the flattened batch, b * S + s, with S = length."""
    row = places % length
    return SupervisedRows(logits, labels, nll.detach(), places // length, row + 1, row)


def count_targets(labels: Tensor, audio_labels: Tensor) -> Tensor:
    """Return the number of text targets and of targets of each codebook.

    Args:
        labels: Text labels, int64 [B, S]. Position 0 has no row before it and does not count.
        audio_labels: Audio labels, int64 [B, F, K].

    Returns:
        int64 [1 + K], on the device of `labels`.

    Example:
        >>> count_targets(torch.tensor([[-100, 7, 8]]), torch.tensor([[[-100, -100], [5, -100], [6, 5]]])).tolist()
        [2, 2, 1]
    """
    text = (labels[:, 1:] != IGNORE_INDEX).sum().reshape(1)
    return torch.cat([text, (audio_labels != IGNORE_INDEX).sum(dim=(0, 1))])
