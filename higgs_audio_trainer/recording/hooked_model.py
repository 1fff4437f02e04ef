"""The model of another training, read by forward hooks and handed to the recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from higgs_audio_trainer.adapters import Adapter
from higgs_audio_trainer.adapters.fingerprint import fingerprints
from higgs_audio_trainer.adapters.hooks import ForwardHooks
from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.recording.recorder import Recorder

_HOST = torch.device("cpu")


class HookedModel:
    """Reads the forward passes of a model in a foreign training. Errors of reading do not reach the training.

    Args:
        model: Model without wrappers.
        adapter: Meaning of the model's outputs.
        recorder: Receives the streams of each forward pass.
        outer: Peft model that adds a soft prompt; None without a soft prompt.

    Attributes:
        step: Last optimizer step that ended.
        is_evaluating: Read forward passes without gradients while the model is in evaluation mode.
    """

    def __init__(self, model: Any, adapter: Adapter, recorder: Recorder, outer: PeftModel | None = None) -> None:
        self.step = 0
        self.is_evaluating = False
        self._model, self._adapter, self._recorder = model, adapter, recorder
        self._config = getattr(model, "config", None)
        self._given: dict[str, Any] = {}
        self._waiting: LoggedStep | None = None
        self._evaluated_at: int | None = None
        self._hooks = ForwardHooks(model, self._is_read, self._on_forward, outer)

    def begin(self, step: int, given: Mapping[str, Any]) -> None:
        """Begin an optimizer step.

        Args:
            step: Optimizer step, counted from 1.
            given: Tensors by name that are no arguments of the model, such as labels of a loss outside.
        """
        self._recorder.begin_step(step)
        self._given = dict(given) if self._recorder.is_open("train") else {}

    def abandon(self) -> None:
        """Drop the step in progress after an exception."""
        self._recorder.abandon("train")

    def end(self, step: int, epoch: float, learning_rate: float) -> bool:
        """End an optimizer step.

        Args:
            step: Optimizer step, counted from 1.
            epoch: Epochs done.
            learning_rate: Learning rate that the step used.

        Returns:
            True if a logged step waits for `emit`.
        """
        self.step = step
        if self._recorder.is_open("train"):
            sums = self._recorder.sums("train", _HOST)
            self._waiting = self._recorder.end_step(sums, step=step, epoch=epoch, learning_rate=learning_rate)
        return self._waiting is not None

    def emit(self, grad_norm: float | None = None) -> None:
        """Emit the logged step that waits. Without one, do nothing.

        Args:
            grad_norm: Norm of the gradients of the step before clipping. None if unknown.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.train is not None:
            self._recorder.record(replace(waiting, train=replace(waiting.train, grad_norm=grad_norm)))

    def evaluated(self, step: int, epoch: float) -> None:
        """Emit the finished evaluation. A log holds the first evaluation of a step alone."""
        if step == self._evaluated_at:
            self.forget_evaluation()
            return
        self._evaluated_at = step
        if self._recorder.is_open("eval"):
            sums = self._recorder.sums("eval", _HOST)
            self._recorder.record(self._recorder.end_evaluation(sums, step=step, epoch=epoch))

    def forget_evaluation(self) -> None:
        """Drop the forward passes without gradients that were read since the last evaluation."""
        self._recorder.abandon("eval")

    def close(self) -> None:
        """Emit the logged step that waits and remove the hooks."""
        self.emit()
        self._hooks.remove()

    def _is_read(self, with_gradients: bool) -> bool:
        if with_gradients:
            return self._recorder.is_recording("train")
        is_evaluation = self.is_evaluating and not self._model.training
        return is_evaluation and (self._recorder.is_recording("eval") or not self._recorder.is_open("eval"))

    def _on_forward(self, outputs: Any, named: Callable[[], dict[str, Any]]) -> None:
        if torch.is_grad_enabled():
            self._recorder.observe("train", lambda: self._read(outputs, named() | self._given))
            return
        if not self._recorder.is_open("eval"):
            self._recorder.begin_evaluation()
        self._recorder.observe("eval", lambda: self._read(outputs, named(), labels_required=False))

    @torch.no_grad()
    def _read(self, outputs: Any, inputs: Mapping[str, Any], *, labels_required: bool = True) -> MicroBatch | None:
        """Return the streams of a forward pass, or None without labels, as in generation."""
        prepared = self._adapter.prepare(self._model, outputs, inputs)
        if not labels_required and not self._adapter.has_labels(prepared):
            return None
        streams = self._adapter.streams(self._config, outputs, prepared, self._hooks.head_logits)
        return MicroBatch(streams, self._names(prepared))

    def _names(self, prepared: Mapping[str, Any]) -> list[SampleRef]:
        tokens = prepared.get(self._adapter.readings[0].inputs)
        if not isinstance(tokens, Tensor):
            return []  # `Adapter.streams` reports missing tokens
        return [SampleRef(name, name) for name in fingerprints(tokens, prepared.get("attention_mask"))]
