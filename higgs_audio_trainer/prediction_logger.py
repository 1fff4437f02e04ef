"""The log of any training: a callback of `transformers.Trainer`, or a context around the steps of a plain loop.

    trainer.add_callback(PredictionLogger("out", log_steps=50))

The logger owns no state of the training. Between logged steps it does nothing. In a logged step, forward hooks read the
inputs and outputs of the model. An error of logging is counted, reported once, and does not reach the training, unless
the logger is strict. The log begins with the end of the first step, so that a failed start leaves no log.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, initial_seed, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
import sinks
from higgs_audio_trainer.adapters import Adapter, UnreadableError, adapter_for
from higgs_audio_trainer.adapters.hooks import prompt_tuned, unwrapped
from higgs_audio_trainer.config import expanded
from higgs_audio_trainer.diagnoses.diagnoser import LEVELS
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import Diagnosis
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.pipeline.failure_message import print_above_progress_bar
from higgs_audio_trainer.pipeline.processors import Processor, named_processors
from higgs_audio_trainer.recording.foreign_training import (
    changes_between,
    foreign_facts,
    foreign_rank,
    next_attempt,
    num_samples_of,
    steps_between_logs,
    tokenizer_of,
    trainer_config,
)
from higgs_audio_trainer.recording.hooked_model import HookedModel
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.logged_so_far import LoggedSoFar
from higgs_audio_trainer.recording.logger_arguments import check_logger_arguments
from higgs_audio_trainer.recording.milestones import MilestoneKeeper
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.schedule import schedule_name
from higgs_audio_trainer.recording.settings import RecorderSettings, every, never
from sinks import Sink, specification


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
        output_dir: Output directory, with `~` for the home folder; events go to `OUTPUT_DIR/events/`. None for the
            Trainer's output directory.
        log_steps: Log step 1 and every multiple of this number. None for the steps that the Trainer logs, or for every
            step of a plain loop.
        sinks: Sinks of the events, as for `--sinks`.
        tokenizer: Decodes text beside its ids. None for the Trainer's processing class.
        adapter: Meaning of the model's outputs. None to find the adapter by the model's class.
        samples: Number of samples shown of a step's first micro-batch.
        window: Slots shown at each end of the target span.
        codebooks: Codebooks shown of audio, counted from 0.
        diagnose: Check the logged steps, as `--diagnose warn` does.
        processors: structlog processors of events, before the sinks.
        pretrained: False for a training from scratch, whose loss begins at chance level. True for trained weights.
            None if unknown.
        strict: Let an error of logging end the training, also a model that the logger cannot read. By default, the
            training continues without the log, and a line on stderr states the error.

    Attributes:
        emit: Receives the events and counts written and lost events.

    Raises:
        UserError: An argument is wrong.
        SinkError: A sink is unknown, or an option of a sink is wrong.

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
        pretrained: bool | None = None,
        strict: bool = False,
    ) -> None:
        # Wrong arguments are refused on every rank, before the training.
        check_logger_arguments(log_steps, sinks, tokenizer, adapter, samples, window, codebooks)
        specification.load(sinks)
        self._processors = named_processors(processors)
        self.emit: Emit = NullPipeline()
        self._output_dir, self._log_steps, self._sinks = output_dir, log_steps, sinks
        self._tokenizer, self._given_adapter = tokenizer, adapter
        self._samples, self._window, self._codebooks = samples, window, tuple(codebooks)
        self._diagnose, self._pretrained, self._strict = diagnose, pretrained, strict
        self._optimizer: Any = None
        self._learning_rate = float("nan")
        self._hooked: HookedModel | None = None
        self._recorder: Recorder | None = None
        self._begin_log: Callable[[], None] | None = None  # until the log has begun
        self._built: list[tuple[str, Sink]] = []
        self._config_before: Mapping[str, Any] | None = None  # of the resumed attempt
        self._shown: LoggedSoFar | None = None  # after the end of the log too

    def __repr__(self) -> str:
        return f"<PredictionLogger: {self._shown or 'no log yet'}>"

    def _repr_html_(self) -> str | None:
        """Return place, last step, losses, accuracies and findings, for a notebook. None before the training."""
        return None if self._shown is None else self._shown.html()

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
            ValueError: `output_dir` is missing.
            UserError: `config` is no mapping.
            UnreadableError: No adapter is known for the model, and the logger is strict.
            SinkError: A sink cannot be set up, and the logger is strict.
        """
        if self._output_dir is None:
            raise ValueError("PredictionLogger: expected a folder for the events, got none: PredictionLogger('out')")
        if not isinstance(config, Mapping | None):
            raise UserError(f"config: expected a mapping, got {type(config).__name__}. Pass a dictionary: vars(...)")
        if foreign_rank() == 0:
            facts = {"seed": initial_seed(), "resumed_from_step": None, "num_train_samples": 0}
            self._start(model, self._output_dir, lambda: config or {}, self._tokenizer, self._log_steps or 1, facts)
            self._optimizer = optimizer
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
        self._ensure_begun()
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
            self._ensure_begun()
            if self._hooked is not None:
                self._hooked.evaluated(step, 0.0)
        finally:
            if self._hooked is not None:
                self._hooked.is_evaluating = False
                self._hooked.forget_evaluation()

    def close(self, reason: str = "completed") -> None:
        """End the log and remove the hooks from the model. A second call does nothing."""
        hooked, recorder, built = self._hooked, self._recorder, self._built
        self._hooked = self._recorder = self._optimizer = self._begin_log = None
        self._built = []
        if hooked is not None:
            hooked.close()
        if recorder is not None:
            recorder.end(reason)
            recorder.close()
        _remove_empty(built)
        atexit.unregister(self._close_at_exit)

    # As a callback

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prepare the log, which begins with the end of the first step."""
        if not state.is_world_process_zero:
            return
        loader = kwargs.get("train_dataloader")
        self._start(
            kwargs["model"],
            self._output_dir or str(args.output_dir),
            lambda: trainer_config(args, state, self._optimizer),
            self._tokenizer or tokenizer_of(kwargs.get("processing_class")),
            self._log_steps or steps_between_logs(args, state, loader),
            {
                "seed": args.seed,
                "resumed_from_step": state.global_step or None,
                "num_train_samples": num_samples_of(loader),
                "total_steps": state.max_steps or None,
                "schedule": schedule_name(kwargs.get("lr_scheduler")),
            },
        )
        self._optimizer = kwargs.get("optimizer")
        if self._hooked is not None:
            self._hooked.is_evaluating = True

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
        self._ensure_begun()
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
        self._ensure_begun()
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
        self._ensure_begun()
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
        config: Callable[[], Mapping[str, Any]],
        tokenizer: Any,
        log_steps: int,
        facts: Mapping[str, Any],
    ) -> None:
        """Prepare the log. An error reaches the training only if the logger is strict."""
        self.close("error")  # an earlier training that did not call `on_train_end`
        if not specification.parse(self._sinks):
            return
        with self._tolerated():
            core = unwrapped(model)
            problem, adapter = self._adapter_of(core)
            folder = Path(expanded(str(output_dir), "output_dir")).absolute()
            self._open(model, core, adapter, folder, tokenizer, log_steps, facts)
            self._begin_log = lambda: self._emit_start(core, adapter, config(), facts, problem)
            atexit.register(self._close_at_exit)

    def _adapter_of(self, core: nn.Module) -> tuple[str, Adapter]:
        """Return "" and the adapter of a model, or else the problem and an adapter that reads nothing."""
        try:
            return "", self._given_adapter or adapter_for(core)
        except UnreadableError as error:
            if self._strict:
                raise
            _say(f"no step is logged: {error}")
            return str(error), Adapter("none", ())

    def _open(
        self,
        model: nn.Module,
        core: nn.Module,
        adapter: Adapter,
        folder: Path,
        tokenizer: Any,
        log_steps: int,
        facts: Mapping[str, Any],
    ) -> None:
        num_codebooks = adapter.num_codebooks(getattr(core, "config", None))
        decode = None if tokenizer is None else lambda ids: str(tokenizer.decode(list(ids)))
        shown = WindowSettings(self._samples, self._window, self._existing_codebooks(num_codebooks), decode)
        is_readable = bool(adapter.readings)
        record = RecorderSettings(
            every(log_steps) if is_readable else never,
            num_codebooks,
            shown,
            evaluations=is_readable,
            counts=self._diagnose,
            strict=self._strict,
        )
        run_id, attempt, self._config_before = next_attempt(
            folder / "events", resumed=facts["resumed_from_step"] is not None
        )
        self._built = built = sinks.build(self._sinks, sinks.SinkContext(str(folder), run_id, 0, attempt))
        self.emit = Pipeline(built, run_id=run_id, attempt=attempt, processors=self._processors, strict=self._strict)
        checks = LiveChecks(self.emit, fails=False) if self._diagnose else None
        keeper = MilestoneKeeper(self.emit)
        self._shown = LoggedSoFar(_place(built), self.emit, keeper, checks)
        self._recorder = Recorder(self.emit, record, sinks=built, checks=checks, keeper=keeper)
        self._hooked = HookedModel(core, adapter, self._recorder, prompt_tuned(model))

    def _existing_codebooks(self, num_codebooks: int) -> tuple[int, ...]:
        """Return the shown codebooks that the model has, or else the first codebook. Missing codebooks are reported.

        Raises:
            UserError: A codebook is missing, and the logger is strict.
        """
        shown = tuple(k for k in self._codebooks if k < num_codebooks) or (0,)
        missing = [k for k in self._codebooks if k >= num_codebooks > 0]
        if missing:
            problem = (
                f"codebooks: expected numbers from 0 to {num_codebooks - 1}, since the model has {num_codebooks} "
                f"codebooks, got {', '.join(map(str, missing))}"
            )
            if self._strict:
                raise UserError(f"PredictionLogger: {problem}")
            _say(f"{problem}. Shown: {', '.join(map(str, shown))}")
        return shown

    def _emit_start(
        self, core: nn.Module, adapter: Adapter, config: Mapping[str, Any], facts: Mapping[str, Any], problem: str
    ) -> None:
        """Emit `run_start`, and the reason why nothing follows if the model is unreadable."""
        hooked, recorder = self._hooked, self._recorder
        assert hooked is not None
        assert recorder is not None
        recorder.start(
            foreign_facts(
                core,
                adapter,
                config,
                pretrained=self._pretrained,
                resume_changes=changes_between(self._config_before, config),
                **facts,
            ),
            current_step=lambda: hooked.step,
        )
        if problem:
            evidence = {"model": type(core).__name__}
            found = Diagnosis(step=0, code="unreadable_model", severity="error", message=problem, evidence=evidence)
            self.emit(found, level=LEVELS[found.severity])

    def _ensure_begun(self) -> None:
        """Begin the log, if it is prepared and has not begun."""
        begin, self._begin_log = self._begin_log, None
        if begin is not None:
            with self._tolerated():
                begin()

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        """Drop the log after an error in the block. The error reaches the training only if the logger is strict."""
        try:
            yield
        except Exception as error:
            self.close("error")
            if self._strict:
                raise
            described = str(error) if isinstance(error, (UserError, UnreadableError, sinks.SinkError)) else repr(error)
            _say(f"nothing is logged: {' '.join(described.split())}")

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


def _place(built: Sequence[tuple[str, Sink]]) -> str:
    """Return the file of the log, or else the names of the sinks."""
    files = [str(sink.path) for _, sink in built if isinstance(sink, sinks.JsonlSink)]
    return ", ".join(files or [name for name, _ in built])


def _remove_empty(built: Sequence[tuple[str, Sink]]) -> None:
    """Remove the file of a log that did not begin."""
    for _, sink in built:
        if isinstance(sink, sinks.JsonlSink):
            with suppress(OSError):  # an empty file harms nobody
                if not sink.path.stat().st_size:
                    sink.path.unlink()


def _say(problem: str) -> None:
    """Print a problem as a line. The training continues."""
    advice = "The training continues; PredictionLogger(strict=True) would end it."
    print_above_progress_bar(f"higgs-audio-trainer: PredictionLogger: {problem.rstrip('.')}. {advice}")
