"""One training, watched from outside: its due steps and its evaluations, read off its model by forward hooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from higgs_audio_trainer.adapters import Adapter
from higgs_audio_trainer.adapters.fingerprint import fingerprints
from higgs_audio_trainer.adapters.hooks import ForwardHooks
from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.events import EvalResult, Split, TrainStep
from higgs_audio_trainer.extraction.extraction import Extracted, Extraction
from higgs_audio_trainer.extraction.token_counts import TokenCounter
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.pipeline.emit import Emit
from higgs_audio_trainer.recording.live_checks import LiveChecks, deliver


class HookedModel:
    """Reads a model while it is trained by somebody else. Whatever fails here is counted and said, and never raised.

    Args:
        model: without wrappers.
        adapter: what its outputs mean.
        emit: takes events.
        shown: what to show of a step.
        watch: checks what is emitted; None if nobody does.

    Attributes:
        seconds: host time spent here.
        step: last optimizer step that ended.
        is_evaluating: read passes without gradients of a model in evaluation mode.
    """

    def __init__(
        self, model: Any, adapter: Adapter, emit: Emit, shown: WindowSettings, watch: LiveChecks | None = None
    ) -> None:
        self.seconds = 0.0
        self.step = 0
        self.is_evaluating = False
        self._model, self._adapter, self._emit, self._shown = model, adapter, emit, shown
        self._watch = watch
        self._config = getattr(model, "config", None)
        self._given: dict[str, Any] = {}  # beside what the model is called with
        self._began = 0.0
        self._training: Extraction | None = None  # of the due step in progress
        self._ready: LoggedStep | None = None  # a due step that has ended
        self._evaluation: Extraction | None = None
        self._evaluated = 0  # samples
        self._evaluation_began = 0.0
        self._evaluated_at: int | None = None  # step
        self._hooks = ForwardHooks(model, self._is_read, self._on_forward)

    def begin(self, given: Mapping[str, Any]) -> None:
        """Begin a due step.

        Args:
            given: what the model is not called with, by name.
        """
        self._began = time.perf_counter()
        self._given = dict(given)
        self._training = self._extraction("train")

    def abandon(self) -> None:
        """Forget the step in progress: half a step is no step."""
        self._training = None

    def end(self, step: int, epoch: float, learning_rate: float) -> bool:
        """End a step.

        Args:
            step: counted from 1.
            epoch: epochs done.
            learning_rate: that the step used.

        Returns:
            whether there is something to emit, by `emit`.
        """
        self.step = step
        extraction, self._training = self._training, None
        if extraction is None or extraction.failed:
            return False
        if extraction.seconds == 0.0:
            self._fail("expected the model to be called in a due step, with gradients, got no call")
            return False
        extracted = self._finished(extraction, step, epoch)
        if extracted is None:
            return False
        event = TrainStep(
            step=step,
            epoch=epoch,
            **extracted.loss_sums.event_fields(1.0),
            learning_rate=learning_rate,
            grad_norm=None,
            step_ms=1000 * (time.perf_counter() - self._began),
            logging_ms=1000 * extraction.seconds,
            sequence_length=extracted.sequence_length,
            samples=extracted.names,
        )
        self._ready = LoggedStep(step, event, extracted.counts, extracted.samples)
        return True

    def emit(self, grad_norm: float | None = None) -> None:
        """Emit the due step that has ended, if there is one.

        Args:
            grad_norm: of its gradients, before they were clipped.
        """
        ready, self._ready = self._ready, None
        if ready is not None and ready.train is not None:
            self._deliver(replace(ready, train=replace(ready.train, grad_norm=grad_norm)))

    def evaluated(self, step: int, epoch: float) -> None:
        """Emit the evaluation that has ended, if it was one of labels, and the first of its step."""
        if step == self._evaluated_at:
            self.forget_evaluation()  # a log has one a step: of several sets, the first
            return
        self._evaluated_at = step
        extraction, num_samples = self._evaluation, self._evaluated
        duration = time.perf_counter() - self._evaluation_began
        self.forget_evaluation()
        extracted = None if extraction is None or extraction.failed else self._finished(extraction, step, epoch)
        if extracted is None:
            return
        figures = extracted.loss_sums.event_fields(1.0)
        result = EvalResult(step=step, epoch=epoch, **figures, num_samples=num_samples, duration_s=duration)
        self._deliver(LoggedStep(step, samples=extracted.samples, evaluation=result))

    def forget_evaluation(self) -> None:
        """Drop what was read without gradients: it was no evaluation."""
        self._evaluation, self._evaluated = None, 0

    def close(self) -> None:
        """Emit what is ready, and leave the model as it was."""
        self.emit()
        self._hooks.remove()

    def _extraction(self, split: Split) -> Extraction:
        def read(outputs: Any, prepared: Mapping[str, Any]) -> Any:
            return self._adapter.streams(self._config, outputs, prepared, self._hooks.head_logits)

        counter = TokenCounter() if split == "train" and self._watch is not None else None
        return Extraction(split, self._shown, read, counter)

    def _is_read(self, with_gradients: bool) -> bool:
        if with_gradients:
            return self._training is not None and not self._training.failed
        wanted = self.is_evaluating and not self._model.training
        return wanted and (self._evaluation is None or not self._evaluation.failed)

    def _on_forward(self, outputs: Any, named: Callable[[], dict[str, Any]]) -> None:
        began = time.perf_counter()
        is_training = torch.is_grad_enabled()
        extraction = self._training if is_training else self._evaluation
        try:
            with torch.no_grad():
                inputs = named() | (self._given if is_training else {})
                prepared = self._adapter.prepare(self._model, outputs, inputs)
                if not is_training and not self._adapter.has_labels(prepared):
                    return  # it generates
                if extraction is None:
                    extraction = self._evaluation = self._extraction("eval")
                    self._evaluation_began = began
                refs = self._refs(prepared)
                extraction.observe(outputs, prepared, refs)
                self._evaluated += 0 if is_training else len(refs)
        except Exception as error:  # noqa: BLE001 - a fault of the log is no reason to lose the training; it is counted
            if extraction is not None:
                extraction.failed = True
            self._emit.fail("extraction", error)
        finally:
            self.seconds += time.perf_counter() - began

    def _refs(self, prepared: Mapping[str, Any]) -> list[SampleRef]:
        tokens = prepared.get(self._adapter.readings[0].inputs)
        if not isinstance(tokens, Tensor):
            return []  # what is missing is said where it is read
        return [SampleRef(name, name) for name in fingerprints(tokens, prepared.get("attention_mask"))]

    def _finished(self, extraction: Extraction, step: int, epoch: float) -> Extracted | None:
        try:
            sums = extraction.sums(self._adapter.num_codebooks(self._config), torch.device("cpu"))
            return extraction.finish(sums, step=step, epoch=epoch)
        except Exception as error:  # noqa: BLE001 - as above
            self._emit.fail("extraction", error)
            return None

    def _deliver(self, due: LoggedStep) -> None:
        try:
            self.seconds += deliver(self._emit, self._watch, due)
        except Exception as error:  # noqa: BLE001 - as above
            self._emit.fail("diagnoses", error)

    def _fail(self, message: str) -> None:
        self._emit.fail("extraction", RuntimeError(message))
