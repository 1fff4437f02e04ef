"""The log of any training: a callback of `transformers.Trainer`, or a context around the steps of a plain loop.

    trainer.add_callback(PredictionLogger("out", log_steps=50))

The logger owns no state of the training. Between logged steps it does nothing. In a logged step, forward hooks read the
inputs and outputs of the model. An error of logging is counted, reported once, and does not reach the training.
"""

from __future__ import annotations

import atexit
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
import sinks
from higgs_audio_trainer.adapters import Adapter, adapter_for
from higgs_audio_trainer.adapters.hooks import unwrapped
from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.pipeline.processors import Processor, named_processors
from higgs_audio_trainer.recording.hooked_model import HookedModel
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RecorderSettings, RunFacts, every


@dataclass(slots=True)
class StepNotes:
    """Facts of a step that a plain loop may add.

    Attributes:
        grad_norm: Norm of the gradients before clipping.
    """

    grad_norm: Tensor | float | None = None


class PredictionLogger(TrainerCallback):
    """Logs predictions against labels every `log_steps` steps of any training.

    Add the logger to `transformers.Trainer`, or to a class derived from `Trainer`, as a callback. In a plain loop, use
    `attach` and `step`.

    The figures of a `train_step` cover the micro-batches of this process. Nothing is summed over ranks, and rank 0
    alone writes. Fingerprints stand for the names of samples.

    Args:
        output_dir: Output directory; events go to `OUTPUT_DIR/events/`. None for the Trainer's output directory.
        log_steps: Log step 1 and every multiple of this number. None for the Trainer's `logging_steps`.
        sinks: Sinks of the events, as for `--sinks`.
        tokenizer: Decodes text beside its ids. None for the Trainer's processing class.
        adapter: Meaning of the model's outputs. None to find the adapter by the model's class.
        samples: Number of samples shown of a step's first micro-batch.
        window: Slots shown at each end of the target span.
        codebooks: Codebooks shown of audio.
        diagnose: Check the logged steps, as `--diagnose warn` does.
        processors: structlog processors of events, before the sinks.

    Attributes:
        emit: Receives the events and counts written and lost events.

    Example:
        >>> import tempfile, torch, transformers
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        ... )
        >>> model, batch = transformers.LlamaForCausalLM(config), torch.tensor([[1, 2, 3, 4]])
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = PredictionLogger(folder, log_steps=50, sinks="jsonl").attach(model, optimizer)
        ...     for number in range(1, 4):
        ...         with logger.step(number):
        ...             model(input_ids=batch, labels=batch).loss.backward()
        ...             optimizer.step()
        ...     logger.close()
        ...     from higgs_audio_trainer import read
        ...     [event.event for event in read(folder) if event.event != "diagnosis"]
        ['run_start', 'train_step', 'prediction_sample', 'token_counts', 'run_end']
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
        self._processors = named_processors(processors)  # refuses a wrong processor on every rank, before the training
        self._optimizer: Any = None
        self._learning_rate = float("nan")
        self._hooked: HookedModel | None = None
        self._recorder: Recorder | None = None

    # In a plain loop

    def attach(
        self, model: nn.Module, optimizer: Any = None, *, config: Mapping[str, Any] | None = None
    ) -> PredictionLogger:
        """Begin the log of a plain loop on rank 0. Other ranks do nothing.

        Args:
            model: Trained model, with or without wrappers (DDP, peft, torch.compile).
            optimizer: Optimizer, for the learning rate in the log. None to log null.
            config: Settings to log. Secrets are redacted.

        Raises:
            UnreadableError: No adapter is known for the model.
            SinkError: A sink cannot be set up.
            ValueError: `output_dir` is missing.
        """
        self._optimizer = optimizer
        if self._output_dir is None:
            raise ValueError("PredictionLogger: expected a folder for the events, got none: PredictionLogger('out')")
        if _rank() == 0:
            log_steps, seed = self._log_steps or 1, torch.initial_seed()
            self._start(model, self._output_dir, config or {}, self._tokenizer, log_steps=log_steps, seed=seed)
        return self

    @contextmanager
    def step(self, number: int, **given: Tensor) -> Iterator[StepNotes]:
        """Log one optimizer step, if `log_steps` makes the step a logged step.

        Args:
            number: Number of the step, counted from 1.
            **given: Tensors that the forward pass is not called with, such as `labels` of a loss outside the model.

        Yields:
            Notes for the norm of the gradients: `notes.grad_norm = clip_grad_norm_(...)`.
        """
        notes = StepNotes()
        self._begin(number, given)
        try:
            yield notes
        except BaseException:
            if self._hooked is not None:
                self._hooked.abandon()
            raise
        if self._hooked is not None and self._hooked.end(number, 0.0, self._learning_rate):
            self._hooked.emit(None if notes.grad_norm is None else float(notes.grad_norm))

    @contextmanager
    def evaluation(self, step: int) -> Iterator[None]:
        """Log one evaluation: all forward passes without gradients of the model in evaluation mode.

        Args:
            step: Optimizer steps done.
        """
        if self._hooked is None:
            yield
            return
        self._hooked.is_evaluating = True
        try:
            yield
            self._hooked.evaluated(step, 0.0)
        finally:
            self._hooked.is_evaluating = False
            self._hooked.forget_evaluation()

    def close(self, reason: str = "completed") -> None:
        """End the log and remove the hooks from the model. A second call does nothing."""
        if self._hooked is None or self._recorder is None:
            return
        self._hooked.close()
        self._recorder.end(reason)
        self._recorder.close()
        self._hooked = self._recorder = self._optimizer = None
        atexit.unregister(self._close_at_exit)

    # As a callback

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the log. Wrong settings raise an error before the first step."""
        if not state.is_world_process_zero:
            return
        self._start(
            kwargs["model"],
            self._output_dir or str(args.output_dir),
            args.to_sanitized_dict(),
            self._tokenizer or _tokenizer_of(kwargs.get("processing_class")),
            log_steps=self._log_steps or max(1, int(args.logging_steps)),
            seed=args.seed,
            resumed_from_step=state.global_step or None,
            num_train_samples=_length(kwargs.get("train_dataloader")),
        ).is_evaluating = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin an optimizer step."""
        self._begin(state.global_step + 1, {})

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate of the step before the scheduler changes the rate."""
        self._optimizer = kwargs.get("optimizer")
        self._note_learning_rate()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit a logged step. If the Trainer logs the step too, wait for the norm of the gradients in `on_log`."""
        if self._hooked is None:
            return
        is_ready = self._hooked.end(state.global_step, float(state.epoch or 0.0), self._learning_rate)
        if is_ready and not control.should_log:
            self._hooked.emit()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Emit the waiting step with the norm of the gradients."""
        if self._hooked is not None:
            self._hooked.emit((logs or {}).get("grad_norm"))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit the finished evaluation."""
        if self._hooked is not None:
            self._hooked.evaluated(state.global_step, float(state.epoch or 0.0))

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        """Drop the forward passes of a prediction, which belong to no evaluation."""
        if self._hooked is not None:
            self._hooked.forget_evaluation()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit the saved checkpoint."""
        if self._recorder is not None:
            self._recorder.checkpoint_saved(state.global_step)

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
        log_steps: int,
        seed: int,
        resumed_from_step: int | None = None,
        num_train_samples: int = 0,
    ) -> HookedModel:
        self.close("error")  # an earlier training that did not call `on_train_end`
        core = unwrapped(model)
        adapter = self._given_adapter or adapter_for(core)
        settings = getattr(core, "config", None)
        folder = Path(output_dir).absolute()
        run_id, attempt = _attempt(folder / "events", resumed=resumed_from_step is not None)
        built = sinks.build(self._sinks, sinks.SinkContext(str(folder), run_id, 0, attempt))
        self.emit = Pipeline(built, run_id=run_id, attempt=attempt, processors=self._processors)
        decode = None if tokenizer is None else lambda ids: str(tokenizer.decode(list(ids)))
        shown = WindowSettings(self._samples, self._window, self._codebooks, decode)
        checks = LiveChecks(self.emit, fails=False) if self._diagnose else None
        record = RecorderSettings(every(log_steps), adapter.num_codebooks(settings), shown, counts=self._diagnose)
        self._recorder = Recorder(self.emit, record, sinks=built, checks=checks)
        self._hooked = hooked = HookedModel(core, adapter, self._recorder)
        facts = RunFacts(
            config={**config, "adapter": adapter.name, "model": type(core).__name__},
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
            device=str(next(core.parameters()).device),
            seed=seed,
            resumed_from_step=resumed_from_step,
            num_train_samples=num_train_samples,
            num_eval_samples=0,  # a Trainer makes them after the beginning of the training
            trainable_parameters=sum(part.numel() for part in core.parameters() if part.requires_grad),
            base_is_random=getattr(settings, RANDOM_WEIGHTS, None),
            max_length=getattr(settings, "max_position_embeddings", None),
            modalities=tuple(reading.modality for reading in adapter.readings),
            stops=adapter.stops(settings),
        )
        self._recorder.start(facts, current_step=lambda: hooked.step)
        atexit.register(self._close_at_exit)
        return hooked

    def _close_at_exit(self) -> None:
        self.close("error")  # the training did not end its log

    def _begin(self, step: int, given: Mapping[str, Any]) -> None:
        if self._hooked is not None and self._recorder is not None:
            self._hooked.emit()  # the step before, if no `on_log` followed
            self._hooked.begin(step, given)
            if self._recorder.is_open("train"):
                self._note_learning_rate()

    def _note_learning_rate(self) -> None:
        with suppress(AttributeError, IndexError, KeyError, TypeError):  # no optimizer, or another kind
            self._learning_rate = float(self._optimizer.param_groups[0]["lr"])


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def _attempt(folder: Path, *, resumed: bool) -> tuple[str, int]:
    """Return the id of the run and the number of the attempt, one higher than those of the existing files."""
    numbers = [0]
    run_id = uuid.uuid4().hex[:12]
    for path in sorted(folder.glob("rank00000-attempt[0-9][0-9][0-9]*.jsonl")):
        numbers.append(int(path.name.removeprefix("rank00000-attempt")[:3]) + 1)
        if resumed:
            with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                run_id = str(json.loads(file.readline())["run_id"])
    return run_id, max(numbers)


def _tokenizer_of(processing_class: Any) -> Any:
    """Return the tokenizer, or the tokenizer of a processor, or None."""
    found = getattr(processing_class, "tokenizer", processing_class)
    return found if callable(getattr(found, "decode", None)) else None


def _length(loader: object) -> int:
    with suppress(TypeError):  # no data set, or a stream of unknown length
        return len(getattr(loader, "dataset", None))  # type: ignore[arg-type]
    return 0
