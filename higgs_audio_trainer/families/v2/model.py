"""Higgs Audio v2 for training: the native class with a second forward pass, without padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import HiggsAudioV2ForConditionalGeneration

from higgs_audio_trainer.data.route import Route
from higgs_audio_trainer.families.training_forward import TrainingForward
from higgs_audio_trainer.families.v2.backbone import RoutedBackbone, RoutedLayer


class HiggsAudioForTraining(TrainingForward, HiggsAudioV2ForConditionalGeneration):
    """The native model with a second forward pass, for training.

    Parameters have the native model's names, so the native model loads an adapter of this class.
    """

    def __init__(self, config: Any, use_text_head: bool = True) -> None:
        super().__init__(config, use_text_head=use_text_head)
        RoutedBackbone.adopt(self.model)
        self._no_split_modules = [RoutedLayer.__name__]  # without the native layer's, which transformers adds

    @property
    def text_head(self) -> nn.Module:
        """Module from hidden states to the logits of the text."""
        assert self.text_lm_head is not None, "a model for training has its text head"
        return self.text_lm_head

    @property
    def audio_head_module(self) -> nn.Module:
        """Module from hidden states to the logits of all codebooks."""
        return self.audio_lm_head

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
        """Return the losses of a batch with a route, see `TrainingForward.losses`, or the native output without one.

        Args:
            input_ids: Token ids, int64 [B, S].
            audio_input_ids: Codes of the audio frames, int64 [B, F, K].
            labels: Text labels, int64 [B, S], -100 where masked.
            audio_labels: Audio labels, int64 [B, F, K], -100 where masked.
            route: Route of the batch. None for the native forward pass, which `generate` calls.
            num_targets: Divisors of the losses, [1 + K].
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
        return self.losses(hidden_NH, labels, audio_labels, route, num_targets)
