"""Higgs Audio v2 for training: a forward pass without padding, text and audio heads on supervised rows only, and LoRA.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks, H hidden; N tokens in the order of the route; R
supervised text rows, M supervised audio rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import HiggsAudioV2ForConditionalGeneration
from transformers.utils.generic import ModelOutput

from higgs_audio_trainer.config import LORA_TARGETS, TrainSettings
from higgs_audio_trainer.data.route import Route
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.rows import ComputedLogits, SupervisedRows
from higgs_audio_trainer.training.arguments import uses_cuda
from higgs_audio_trainer.training.backbone import RoutedBackbone, RoutedLayer
from higgs_audio_trainer.training.loss import score

#: Attention and both feed-forward branches, since `gate_proj` is a suffix of `mlp.gate_proj` and `audio_mlp.gate_proj`.
DEFAULT_LORA_TARGETS = tuple(LORA_TARGETS.split(","))


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


class HiggsAudioForTraining(HiggsAudioV2ForConditionalGeneration):
    """The native model with a second forward pass, for training.

    Parameters have the native model's names, so the native model loads an adapter of this class.

    Attributes:
        text_loss_weight: Weight of the text loss in the loss.
        loss_chunk_rows: Largest number of rows whose logits are in memory at a time. None for 256 MiB of logits.
    """

    #: Without this flag, `transformers.Trainer` divides the loss by the number of micro-batches.
    accepts_loss_kwargs = True
    text_loss_weight: float = 1.0
    loss_chunk_rows: int | None = None
    _no_split_modules = [RoutedLayer.__name__]  # noqa: RUF012 - what FSDP wraps, in the form of transformers

    def __init__(self, config: Any, use_text_head: bool = True) -> None:
        super().__init__(config, use_text_head=use_text_head)
        RoutedBackbone.adopt(self.model)

    def forward(
        self,
        input_ids: Tensor | None = None,
        audio_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        audio_labels: Tensor | None = None,
        route: Route | None = None,
        num_targets: Tensor | None = None,
        attention_mask: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **native: Any,
    ) -> Any:
        """Return the losses, and the logits of the rows with a target. Nothing waits for the device.

        The row at position p-1 predicts position p. Each loss is a sum of cross-entropies divided by `num_targets`.
        A modality or codebook without a target contributes 0.

        Args:
            input_ids: Token ids, int64 [B, S].
            audio_input_ids: Codes of the audio frames, int64 [B, F, K].
            labels: Text labels, int64 [B, S], -100 where masked. The label at p is the token at p.
            audio_labels: Audio labels, int64 [B, F, K], -100 where masked.
            route: Route of the batch. A label counts if the route has its row. None for the native forward pass, which
                `generate` calls.
            num_targets: Divisors of the losses, [1 + K], text and then each codebook. By default, the targets of this
                batch. A trainer passes the targets of the whole optimizer step.
            attention_mask: Mask of the native model, named here since `generate` asks for the names. A route stands in.
            logits_to_keep: Argument of the native model, named for the same reason.
            **native: Further arguments of the native model.

        Returns:
            `TrainingOutput`, or without a route the output of the native model.
        """
        if route is None:
            return super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                audio_input_ids=audio_input_ids,
                labels=labels,
                audio_labels=audio_labels,
                logits_to_keep=logits_to_keep,
                **native,
            )
        assert input_ids is not None
        assert audio_input_ids is not None
        assert labels is not None
        assert audio_labels is not None
        hidden_NH = self.model(input_ids, audio_input_ids, along=route)
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
        assert self.text_lm_head is not None, "a model for training has its text head"
        logits, nll_R1 = score(
            self.text_lm_head,
            hidden_NH.index_select(0, rows),
            labels_R1,
            num_logits=self.config.vocab_size,
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
            self.audio_lm_head,
            hidden_NH.index_select(0, rows),
            labels_MK,
            num_logits=self.config.num_codebooks * self.config.codebook_size,
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


def add_lora(
    model: nn.Module, *, r: int, alpha: int, dropout: float, targets: Sequence[str] = DEFAULT_LORA_TARGETS
) -> PeftModel:
    """Freeze a model and add LoRA adapters.

    Args:
        model: Base model.
        r: Rank of the adapters.
        alpha: Numerator of the adapters' scale, alpha / r.
        dropout: Probability of dropout before each adapter.
        targets: Names of linear modules, or their ends from a dot on, such as `q_proj` and `audio_mlp.gate_proj`.

    Raises:
        UserError: A target matches no linear module.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                f"--lora_targets: expected names of linear modules ({', '.join(known)}; mlp.* is the text branch, "
                f"audio_mlp.* the audio branch), got {target!r}"
            )
    adapted = get_peft_model(
        model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    )
    # peft would write a template of a model card into each folder that it saves to.
    adapted.create_or_update_model_card = _write_no_card  # type: ignore[assignment, method-assign]
    return adapted


def _write_no_card(_folder: str) -> None:
    """Leave the model card to `model_card.py`."""


def load_lora_model(settings: TrainSettings) -> PeftModel:
    """Load the base model of a run and add LoRA adapters.

    Raises:
        UserError: The weights cannot be loaded, some are missing, or a LoRA target matches no module.
    """
    automatic = torch.bfloat16 if uses_cuda(settings) and torch.cuda.is_bf16_supported() else torch.float32
    dtype = automatic if settings.dtype == "auto" else getattr(torch, settings.dtype)
    name = settings.base_ckpt
    try:
        loaded: Any = HiggsAudioForTraining.from_pretrained(
            name, dtype=dtype, attn_implementation=settings.attn_implementation, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        if "attn_implementation" in str(error) or isinstance(error, ImportError):
            text = " ".join(str(error).split())
            raise UserError(f"--attn_implementation {settings.attn_implementation}: {text}") from error
        raise UserError(f"--base_ckpt {name}: the weights cannot be loaded: {error}") from error
    base, info = loaded
    if info["missing_keys"]:
        raise UserError(
            f"--base_ckpt {name}: expected weights for {', '.join(sorted(info['missing_keys'])[:5])}, got none. "
            "text_lm_head.weight must be kept when a checkpoint is converted: the text loss needs it."
        )
    base.text_loss_weight = settings.text_loss_weight
    base.loss_chunk_rows = settings.loss_chunk_rows
    return add_lora(
        base,
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        targets=settings.targets(),
    )
