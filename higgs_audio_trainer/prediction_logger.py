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
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import sinks
from higgs_audio_trainer.adapters import Adapter, adapter_for
from higgs_audio_trainer.adapters.fingerprint import fingerprints
from higgs_audio_trainer.adapters.hooks import ForwardHooks, unwrapped
from higgs_audio_trainer.data.batch import SampleRef, Vocabulary
from higgs_audio_trainer.emit import Emit, NullPipeline, Pipeline, Sink
from higgs_audio_trainer.events import RunEnd, RunStart, TrainStep
from higgs_audio_trainer.extraction import Extraction
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.series import Shown
from higgs_audio_trainer.telemetry import due_every
from higgs_audio_trainer.versions import versions

_NO_VOCABULARY = Vocabulary((), -1, -1, ())  # an adapter names the stop tokens itself


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
    ) -> None:
        self.emit: Emit = NullPipeline()
        self._output_dir, self._log_steps, self._sinks = output_dir, log_steps, sinks
        self._given_tokenizer, self._given_adapter = tokenizer, adapter
        self._tokenizer = tokenizer
        self._adapter: Adapter | None = None
        self._samples, self._window, self._codebooks = samples, window, tuple(codebooks)
        self._model: Any = None
        self._config: Any = None
        self._optimizer: Any = None
        self._built: Sequence[tuple[str, Sink]] = ()
        self._hooks: ForwardHooks | None = None
        self._is_due = due_every(log_steps or 1)
        self._extraction: Extraction | None = None  # of the due step in progress
        self._given: Mapping[str, Any] = {}  # beside what the model is called with
        self._began = 0.0
        self._learning_rate = float("nan")
        self._last_step = 0
        self._seconds = 0.0

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
            seed = torch.initial_seed()
            self._start(model, self._output_dir, config or {}, resumed_from_step=None, num_samples=0, seed=seed)
        return self

    @contextmanager
    def step(self, number: int, **given: Tensor) -> Iterator[None]:
        """Take in one optimizer step.

        Args:
            number: of the step, counted from 1.
            **given: what the forward pass is not called with, such as `labels` where the loss is computed outside.
        """
        self._begin_step(number, given)
        try:
            yield
        except BaseException:
            self._extraction = None  # half a step is no step
            raise
        self._end_step(number, 0.0)

    def close(self, reason: str = "completed") -> None:
        """End the log and leave the model as it was; a second time does nothing."""
        if self._hooks is None:
            return
        self._hooks.remove()
        self._hooks = self._extraction = self._optimizer = self._model = None
        atexit.unregister(self._close_at_exit)
        self.emit.recover()
        self.emit(
            RunEnd(
                reason=reason,
                step=self._last_step,
                events_written=self.emit.written,
                events_lost=self.emit.lost,
                values_replaced=self.emit.replaced,
                logging_ms_total=1000 * (self.emit.seconds + self._seconds),
                diagnoses={},
            )
        )
        for name, sink in self._built:
            try:
                getattr(sink, "close", lambda: None)()
            except Exception as error:  # noqa: BLE001 - the training has ended well, whatever it is
                self.emit.fail(name, error)

    # As a callback

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the log; what is wrong with its settings is said before the first step."""
        if not state.is_world_process_zero:
            return
        self._is_due = due_every(self._log_steps or max(1, int(args.logging_steps)))
        self._tokenizer = self._given_tokenizer or _tokenizer_of(kwargs.get("processing_class"))
        loader = kwargs.get("train_dataloader")
        self._start(
            kwargs["model"],
            self._output_dir or str(args.output_dir),
            args.to_sanitized_dict(),
            resumed_from_step=state.global_step or None,
            num_samples=_length(getattr(loader, "dataset", None)),
            seed=args.seed,
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See whether the step is due."""
        self._begin_step(state.global_step + 1, {})

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate before the schedule moves on."""
        self._optimizer = kwargs.get("optimizer")
        self._note_learning_rate()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit what the step was."""
        self._end_step(state.global_step, float(state.epoch or 0.0))

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
        *,
        resumed_from_step: int | None,
        num_samples: int,
        seed: int,
    ) -> None:
        self.close("error")  # of a training that ended without a word
        self._model = core = unwrapped(model)
        self._adapter = self._given_adapter or adapter_for(core)
        self._config = getattr(core, "config", None)
        folder = Path(output_dir).absolute()
        run_id, attempt = _attempt(folder / "events", resumed=resumed_from_step is not None)
        context = sinks.SinkContext(str(folder), run_id, 0, attempt)
        self._built = sinks.build(self._sinks, context)
        self.emit = Pipeline(self._built, run_id=run_id, attempt=attempt)
        self._hooks = ForwardHooks(core, self._is_reading, self._on_forward)
        atexit.register(self._close_at_exit)
        parameter = next(core.parameters())
        self.emit(
            RunStart(
                config=redacted({**config, "adapter": self._adapter.name, "model": type(core).__name__}),
                versions=versions(),
                world_size=int(os.environ.get("WORLD_SIZE", "1")),
                device=str(parameter.device),
                seed=seed,
                resumed_from_step=resumed_from_step,
                num_train_samples=num_samples,
                num_eval_samples=0,
                num_codebooks=self._adapter.num_codebooks(self._config),
                trainable_parameters=sum(part.numel() for part in core.parameters() if part.requires_grad),
                host=socket.gethostname(),
                max_length=getattr(self._config, "max_position_embeddings", None),
                modalities=tuple(reading.modality for reading in self._adapter.readings),
            )
        )

    def _close_at_exit(self) -> None:
        self.close("error")  # the training never said that it ended

    def _begin_step(self, step: int, given: Mapping[str, Any]) -> None:
        self._began = time.perf_counter()
        if self._hooks is not None and self._is_due(step):
            assert self._adapter is not None
            self._given = given
            read = partial(self._adapter.streams, self._config, head_logits=self._hooks.head_logits)
            self._extraction = Extraction("train", self._shown(), read=read)
            self._note_learning_rate()

    def _shown(self) -> Shown:
        decode = None if self._tokenizer is None else lambda ids: str(self._tokenizer.decode(list(ids)))
        return Shown(self._samples, self._window, self._codebooks, _NO_VOCABULARY, decode)

    def _is_reading(self) -> bool:
        return self._extraction is not None and not self._extraction.failed

    def _on_forward(self, outputs: Any, named: Callable[[], Mapping[str, Any]]) -> None:
        began = time.perf_counter()
        assert self._extraction is not None
        assert self._adapter is not None
        try:
            with torch.no_grad():
                inputs = {**named(), **self._given}
                prepared = self._adapter.prepare(self._model, outputs, inputs)
                self._extraction.observe(outputs, prepared, self._refs(prepared))
        except Exception as error:  # noqa: BLE001 - a fault of the log is no reason to lose the training; it is counted
            self._extraction.failed = True
            self.emit.fail("extraction", error)
        self._seconds += time.perf_counter() - began

    def _refs(self, prepared: Mapping[str, Any]) -> list[SampleRef]:
        assert self._adapter is not None
        tokens = prepared[self._adapter.readings[0].inputs]
        return [SampleRef(name, name) for name in fingerprints(tokens, prepared.get("attention_mask"))]

    def _note_learning_rate(self) -> None:
        with suppress(AttributeError, IndexError, KeyError, TypeError):  # there is none, or another kind of optimizer
            self._learning_rate = float(self._optimizer.param_groups[0]["lr"])

    def _end_step(self, step: int, epoch: float) -> None:
        self._last_step = step
        extraction, self._extraction = self._extraction, None
        if extraction is None:
            return
        try:
            self._emit_step(extraction, step, epoch)
        except Exception as error:  # noqa: BLE001 - as above
            self.emit.fail("extraction", error)

    def _emit_step(self, extraction: Extraction, step: int, epoch: float) -> None:
        if extraction.failed:
            return
        if extraction.seconds == 0.0:
            raise RuntimeError("expected the model to be called in a due step, with gradients, got no call")
        assert self._adapter is not None
        sums = extraction.sums(self._adapter.num_codebooks(self._config), torch.device("cpu"))
        extracted = extraction.finish(sums, step=step, epoch=epoch)
        if extracted is None:
            return
        self.emit(
            TrainStep(
                step=step,
                epoch=epoch,
                **extracted.figures.payload(1.0),
                learning_rate=self._learning_rate,
                grad_norm=None,
                step_ms=1000 * (time.perf_counter() - self._began),
                logging_ms=1000 * extraction.seconds,
                sequence_length=extracted.sequence_length,
                samples=extracted.names,
            )
        )
        for sample in extracted.samples:
            self.emit(sample)


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


def _length(dataset: object) -> int:
    with suppress(TypeError):  # streamed: nobody knows
        return len(dataset)  # type: ignore[arg-type]
    return 0
