"""The log for any training: a callback of `transformers.Trainer`, or a context around the steps of a plain loop.

    trainer.add_callback(PredictionLogger("out", log_steps=50))

It owns no state of the training. Between due steps it does nothing; in a due step a forward hook reads what the model
was given and what it returned. Whatever fails there is counted and said once, and never reaches the training.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

import sinks
from higgs_audio_trainer.adapters import Adapter, adapter_for
from higgs_audio_trainer.adapters.hooks import unwrapped
from higgs_audio_trainer.events import Checkpoint, RunStart
from higgs_audio_trainer.extraction.windows import Shown
from higgs_audio_trainer.pipeline.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.pipeline.processors import Processor, named_processors
from higgs_audio_trainer.recording.hooked_model import HookedModel
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import due_every
from higgs_audio_trainer.recording.run_log import RunLog
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.versions import versions


@dataclass(slots=True)
class StepNotes:
    """What a plain loop may say of a step.

    Attributes:
        grad_norm: norm of its gradients, before they were clipped.
    """

    grad_norm: Tensor | float | None = None


class PredictionLogger(TrainerCallback):
    """Logs what a model predicts against its labels, every `log_steps` steps of any training.

    With `transformers.Trainer` and what derives from it, add it as a callback. In a plain loop:

        logger = PredictionLogger("out", log_steps=50).attach(model, optimizer)
        for number, batch in enumerate(loader, start=1):
            with logger.step(number):
                model(**batch).loss.backward()
                optimizer.step()
        logger.close()

    The figures of a `train_step` are of the micro-batches that this process has seen; nothing is summed over ranks, and
    rank 0 alone writes. Samples have no names here: their fingerprints stand for them.

    Args:
        output_dir: events go to `OUTPUT_DIR/events/`; None: the Trainer's own.
        log_steps: due are step 1 and every multiple of it; None: the Trainer's `logging_steps`.
        sinks: where events go, as for `--sinks`.
        tokenizer: decodes text beside its ids; None: what the Trainer processes with.
        adapter: what the outputs of the model mean; None: found by its class.
        samples: how many of a step's first micro-batch are shown.
        window: slots shown at each end of the target span.
        codebooks: codebooks shown of audio.
        diagnose: check what is logged, as `--diagnose warn` does.
        processors: structlog processors that events pass before the sinks, as for `Pipeline`.

    Attributes:
        emit: takes events; it knows how many were written and lost.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        log_steps: int | None = None,
        sinks: str = "console,jsonl",
        tokenizer: Any = None,
        adapter: Adapter | None = None,
        samples: int = 2,
        window: int = 5,
        codebooks: Sequence[int] = (0,),
        diagnose: bool = True,
        processors: Sequence[Processor] = (),
    ) -> None:
        self.emit: Emit = NullPipeline()
        self._output_dir, self._log_steps, self._sinks = output_dir, log_steps, sinks
        self._tokenizer, self._given_adapter = tokenizer, adapter
        self._samples, self._window, self._codebooks = samples, window, tuple(codebooks)
        self._diagnose = diagnose
        self._processors = named_processors(processors)  # a wrong one is refused on every rank, and before the training
        self._optimizer: Any = None
        self._learning_rate = float("nan")
        self._is_due = due_every(log_steps or 1)
        self._observation: HookedModel | None = None
        self._log: RunLog | None = None

    # In a plain loop

    def attach(
        self, model: nn.Module, optimizer: Any = None, *, config: Mapping[str, Any] | None = None
    ) -> PredictionLogger:
        """Begin a log of a model's training, on rank 0; elsewhere do nothing.

        Args:
            model: what is trained, wrapped (DDP, peft, torch.compile) or not.
            optimizer: to log its learning rate; None: it is null in the log.
            config: settings to log; secrets are redacted.

        Raises:
            UnreadableError: what its outputs mean is not known.
            SinkError: the sinks cannot be made as asked.
            ValueError: there is no `output_dir`.
        """
        self._optimizer = optimizer
        if self._output_dir is None:
            raise ValueError("PredictionLogger: expected a folder for the events, got none: PredictionLogger('out')")
        if _rank() == 0:
            self._start(model, self._output_dir, config or {}, self._tokenizer, seed=torch.initial_seed())
        return self

    @contextmanager
    def step(self, number: int, **given: Tensor) -> Iterator[StepNotes]:
        """Take in one optimizer step.

        Args:
            number: of the step, counted from 1.
            **given: what the forward pass is not called with, such as `labels` where the loss is computed outside.

        Yields:
            notes, which take the norm of the gradients: `notes.grad_norm = clip_grad_norm_(...)`.
        """
        notes = StepNotes()
        self._begin(number, given)
        try:
            yield notes
        except BaseException:
            if self._observation is not None:
                self._observation.abandon()
            raise
        if self._observation is not None and self._observation.end(number, 0.0, self._learning_rate):
            self._observation.emit(None if notes.grad_norm is None else float(notes.grad_norm))

    @contextmanager
    def evaluation(self, step: int) -> Iterator[None]:
        """Take in one evaluation: every forward pass within, of the model in evaluation mode and without gradients.

        Args:
            step: optimizer steps done.
        """
        if self._observation is None:
            yield
            return
        self._observation.is_evaluating = True
        try:
            yield
            self._observation.evaluated(step, 0.0)
        finally:
            self._observation.is_evaluating = False
            self._observation.forget_evaluation()

    def close(self, reason: str = "completed") -> None:
        """End the log and leave the model as it was; a second time does nothing."""
        if self._observation is None or self._log is None:
            return
        self._observation.close()
        self._log.end(reason)
        self._log.close()
        self._observation = self._log = self._optimizer = None
        atexit.unregister(self._close_at_exit)

    # As a callback

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the log; what is wrong with its settings is said before the first step."""
        if not state.is_world_process_zero:
            return
        self._is_due = due_every(self._log_steps or max(1, int(args.logging_steps)))
        self._start(
            kwargs["model"],
            self._output_dir or str(args.output_dir),
            args.to_sanitized_dict(),
            self._tokenizer or _tokenizer_of(kwargs.get("processing_class")),
            seed=args.seed,
            resumed_from_step=state.global_step or None,
            num_train_samples=_length(kwargs.get("train_dataloader")),
        ).is_evaluating = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See whether the step is due."""
        self._begin(state.global_step + 1, {})

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate before the schedule moves on."""
        self._optimizer = kwargs.get("optimizer")
        self._note_learning_rate()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit what the step was; where the Trainer is about to log it too, wait for the norm of the gradients."""
        if self._observation is None:
            return
        is_ready = self._observation.end(state.global_step, float(state.epoch or 0.0), self._learning_rate)
        if is_ready and not control.should_log:
            self._observation.emit()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Emit the step that waits."""
        if self._observation is not None:
            self._observation.emit((logs or {}).get("grad_norm"))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit what the evaluation was."""
        if self._observation is not None:
            self._observation.evaluated(state.global_step, float(state.epoch or 0.0))

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        """Forget what was read: it belongs to no evaluation."""
        if self._observation is not None:
            self._observation.forget_evaluation()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit that a checkpoint was saved."""
        if self._observation is not None:
            self.emit(Checkpoint(step=state.global_step, path=f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the log."""
        self.close()

    # Both

    def _start(
        self,
        model: nn.Module,
        output_dir: str | os.PathLike[str],
        config: Mapping[str, Any],
        tokenizer: Any,
        *,
        seed: int,
        resumed_from_step: int | None = None,
        num_train_samples: int = 0,
    ) -> HookedModel:
        self.close("error")  # of a training that ended without a word
        core = unwrapped(model)
        adapter = self._given_adapter or adapter_for(core)
        settings = getattr(core, "config", None)
        folder = Path(output_dir).absolute()
        run_id, attempt = _attempt(folder / "events", resumed=resumed_from_step is not None)
        built = sinks.build(self._sinks, sinks.SinkContext(str(folder), run_id, 0, attempt))
        self.emit = Pipeline(built, run_id=run_id, attempt=attempt, processors=self._processors)
        decode = None if tokenizer is None else lambda ids: str(tokenizer.decode(list(ids)))
        shown = Shown(self._samples, self._window, self._codebooks, decode)
        watch = LiveChecks(self.emit, fails=False) if self._diagnose else None
        self._observation = observation = HookedModel(core, adapter, self.emit, shown, watch)
        start = RunStart(
            config=redacted({**config, "adapter": adapter.name, "model": type(core).__name__}),
            versions=versions(),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
            device=str(next(core.parameters()).device),
            seed=seed,
            resumed_from_step=resumed_from_step,
            num_train_samples=num_train_samples,
            num_eval_samples=0,  # a Trainer has not made them yet
            num_codebooks=adapter.num_codebooks(settings),
            trainable_parameters=sum(part.numel() for part in core.parameters() if part.requires_grad),
            host=socket.gethostname(),
            max_length=getattr(settings, "max_position_embeddings", None),
            modalities=tuple(reading.modality for reading in adapter.readings),
            stops=adapter.stops(settings),
        )
        self._log = RunLog(self.emit, built, watch)
        self._log.start(start, lambda: (observation.step, observation.seconds))
        atexit.register(self._close_at_exit)
        return observation

    def _close_at_exit(self) -> None:
        self.close("error")  # the training never said that it ended

    def _begin(self, step: int, given: Mapping[str, Any]) -> None:
        if self._observation is not None:
            self._observation.emit()  # the step before, if nobody logged it
            if self._is_due(step):
                self._observation.begin(given)
                self._note_learning_rate()

    def _note_learning_rate(self) -> None:
        with suppress(AttributeError, IndexError, KeyError, TypeError):  # there is none, or another kind of optimizer
            self._learning_rate = float(self._optimizer.param_groups[0]["lr"])


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def _attempt(folder: Path, *, resumed: bool) -> tuple[str, int]:
    """Return the run's id and the number of its attempt: one more than the files that are there."""
    numbers = [0]
    run_id = uuid.uuid4().hex[:12]
    for path in sorted(folder.glob("rank00000-attempt[0-9][0-9][0-9]*.jsonl")):
        numbers.append(int(path.name.removeprefix("rank00000-attempt")[:3]) + 1)
        if resumed:
            with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                run_id = str(json.loads(file.readline())["run_id"])
    return run_id, max(numbers)


def _tokenizer_of(processing_class: Any) -> Any:
    """Return what decodes text: the tokenizer, or that of a processor; None where there is neither."""
    found = getattr(processing_class, "tokenizer", processing_class)
    return found if callable(getattr(found, "decode", None)) else None


def _length(loader: object) -> int:
    with suppress(TypeError):  # there is none, or it is streamed and nobody knows
        return len(getattr(loader, "dataset", None))  # type: ignore[arg-type]
    return 0
