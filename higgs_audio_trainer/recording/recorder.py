"""The recorder of a training: streams, sums and facts go in, events come out, whoever trains.

Our trainer and `PredictionLogger` call the same methods in the same order:

    recorder.start(facts, ...)
    recorder.begin_step(step)                  # for each optimizer step
        recorder.observe("train", read)        # for each forward pass of a logged step
    logged = recorder.end_step(sums, ...)
    recorder.record(logged)
    recorder.end("completed")

`RunStart`, `TrainStep`, `EvalResult`, `Checkpoint` and `RunEnd` are made here and nowhere else.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from higgs_audio_trainer.errors import LoggingError
from higgs_audio_trainer.events import (
    Checkpoint,
    EvalResult,
    GenerationSample,
    PredictionSample,
    RunEnd,
    RunStart,
    Split,
    TrainStep,
)
from higgs_audio_trainer.extraction.extraction import Extracted, Extraction
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.extraction.rank_times import time_fields
from higgs_audio_trainer.extraction.token_counts import TokenCounter
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.pipeline.emit import Emit, Sink
from higgs_audio_trainer.recording.audio_previews import AudioPreviews
from higgs_audio_trainer.recording.generations import Generations, Spoken
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.milestones import MilestoneKeeper
from higgs_audio_trainer.recording.settings import RecorderSettings, RunFacts
from higgs_audio_trainer.recording.speed import UNKNOWN, HostFacts, Pace, throughput
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.versions import versions

_POLL_S = 0.02  # between looks at the decoder's answers


class Recorder:
    """Turns the forward passes of a training into events and emits them.

    An error while recording is counted, reported once, and costs the step or evaluation in progress. With
    `settings.strict` the error ends the training as a `LoggingError`.

    Args:
        emit: Receives the events.
        settings: Decisions about the record.
        sinks: Name and callable of the sinks behind `emit`, which `close` closes.
        checks: Checks the events while they are recorded. None on a rank that checks nothing.
        previews: Decodes shown audio to WAV files. None on a rank that decodes nothing.
        generations: Takes the speech of the probes. None on a rank that writes nothing.
        keeper: Keeps the first, last and best figures. None if nobody asks for them.

    Attributes:
        seconds: Host time spent on recording, without the time spent in `emit`.
    """

    def __init__(
        self,
        emit: Emit,
        settings: RecorderSettings,
        *,
        sinks: Sequence[tuple[str, Sink]] = (),
        checks: LiveChecks | None = None,
        previews: AudioPreviews | None = None,
        generations: Generations | None = None,
        keeper: MilestoneKeeper | None = None,
    ) -> None:
        self._keeper = keeper
        self.seconds = 0.0
        self.emit = emit
        self.checks = checks
        self._settings = settings
        self._sinks = sinks
        self._previews = previews
        self._generations = generations
        self._last_speech: Sequence[GenerationSample] = ()
        self._open: dict[Split, _Open] = {}
        self._current_step: Callable[[], int] = lambda: 0
        self._ending = threading.Lock()
        self._pace = Pace()
        self._is_started = False

    # The run

    def start(self, facts: RunFacts, *, current_step: Callable[[], int], checkpoint: Path | None = None) -> None:
        """Emit `run_start`.

        Args:
            facts: Facts about the training. Secrets of its config are redacted here.
            current_step: Returns the number of optimizer steps done, for `run_end`.
            checkpoint: Checkpoint that the run is resumed from.
        """
        given = {item.name: getattr(facts, item.name) for item in fields(facts)}
        given["config"] = redacted(dict(facts.config))
        event = RunStart(
            **given, num_codebooks=self._settings.num_codebooks, versions=versions(), host=socket.gethostname()
        )
        if self.checks is not None:
            self.checks.start(event, checkpoint)
        self._current_step = current_step
        self._is_started = True
        self.emit(event)

    def end(self, reason: str, lost_ranks: Sequence[int] = ()) -> None:
        """Emit `run_end`. Only the first call does, whichever thread makes it.

        Args:
            reason: Reason of the end, see `RunEnd`.
            lost_ranks: Ranks whose end broke the training off.
        """
        with self._ending:
            if not self._is_started:
                return
            self._is_started = False
            self.emit.recover()
            self.emit(
                RunEnd(
                    reason=reason,
                    step=self._current_step(),
                    events_written=self.emit.written,
                    events_lost=self.emit.lost,
                    values_replaced=self.emit.replaced,
                    logging_ms_total=(self.emit.seconds + self.seconds) * 1000,
                    diagnoses=self.checks.counted if self.checks is not None else {},
                    lost_ranks=tuple(lost_ranks) or None,
                )
            )

    def close(self) -> None:
        """Close the sinks. A second call does nothing."""
        for name, sink in self._sinks:
            try:
                getattr(sink, "close", lambda: None)()
            except Exception as error:  # noqa: BLE001 - the training has ended; a sink's failure is counted
                self.emit.fail(name, error)
        self._sinks = ()

    def checkpoint_saved(self, step: int) -> None:
        """Emit `checkpoint` for the folder that transformers saved at a step."""
        self.emit(Checkpoint(step=step, path=f"{PREFIX_CHECKPOINT_DIR}-{step}"))

    # Steps and evaluations

    def is_logged_step(self, step: int) -> bool:
        """Return True if an optimizer step, counted from 1, is logged."""
        return self._settings.is_logged_step(step)

    def begin_step(self, step: int, started: float | None = None) -> None:
        """Begin an optimizer step. Nothing is recorded unless the step is logged.

        Args:
            step: Optimizer step, counted from 1.
            started: `time.perf_counter()` at the beginning of the step; now by default.
        """
        self._open.pop("train", None)
        if not self.is_logged_step(step):
            return
        counter = TokenCounter(with_mask_map=step == 1) if self._settings.counts else None
        with_audio = self._previews is not None and self._previews.is_previewed(step)
        self._begin("train", Extraction("train", self._settings.shown, counter, with_audio=with_audio), started)

    def begin_evaluation(self) -> None:
        """Begin an evaluation. Nothing is recorded unless evaluations are logged."""
        if self._settings.evaluations:
            self._begin("eval", Extraction("eval", self._settings.shown))

    def _begin(self, split: Split, extraction: Extraction, started: float | None = None) -> None:
        self._open[split] = _Open(extraction, time.perf_counter() if started is None else started)

    def is_recording(self, split: Split) -> bool:
        """Return True while a logged step or an evaluation is in progress without an error."""
        return split in self._open and not self._open[split].extraction.failed

    def is_open(self, split: Split) -> bool:
        """Return True while a logged step or an evaluation is in progress, failed or not. The same on every rank."""
        return split in self._open

    def abandon(self, split: Split) -> None:
        """Drop the step or evaluation in progress."""
        self._open.pop(split, None)

    def observe(self, split: Split, read: Callable[[], MicroBatch | None]) -> None:
        """Take in one forward pass of the step or evaluation in progress. Nothing waits for the device.

        Args:
            split: train or eval.
            read: Returns the streams of the forward pass, or None to pass over the forward pass. Not called where
                nothing is recorded.
        """
        if self.is_recording(split):
            current = self._open[split]
            with self._guarded(current):
                batch = read()
                if batch is None:
                    return
                current.extraction.observe(batch)
                current.is_observed = True
                current.num_samples += len(batch.samples)

    def sums(self, split: Split, device: torch.device) -> Tensor:
        """Return the sums of the step or evaluation in progress, to be added up over the ranks.

        Args:
            split: train or eval.
            device: Device of the training.

        Returns:
            Float [R, 1 + K]; NaN after an error, so that the other ranks do not wait for this one.
        """
        return self._open[split].extraction.sums(self._settings.num_codebooks, device)

    def end_step(
        self,
        sums: Tensor,
        *,
        step: int,
        epoch: float,
        learning_rate: float,
        grad_norm: Tensor | float | None = None,
        host: HostFacts = UNKNOWN,
    ) -> LoggedStep | None:
        """End the logged step in progress.

        Args:
            sums: Result of `sums`, added up over the ranks.
            step: Optimizer step, counted from 1.
            epoch: Epochs done.
            learning_rate: Learning rate that the step used.
            grad_norm: Norm of the gradients before clipping; None if unknown.
            host: Facts that the host knows.

        Returns:
            The events of the step, for `record`. None where there is nothing to record.
        """
        return self._finish_step(
            self._open.pop("train"),
            sums,
            step=step,
            epoch=epoch,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            host=host,
        )

    def _finish_step(
        self,
        current: _Open,
        sums: Tensor,
        *,
        step: int,
        epoch: float,
        learning_rate: float,
        grad_norm: Tensor | float | None,
        host: HostFacts,
    ) -> LoggedStep | None:
        extracted: Extracted | None = None
        samples: tuple[PredictionSample, ...] = ()
        with self._guarded(current):
            if not current.is_observed and not current.extraction.failed:
                raise RuntimeError("expected the model to be called in a logged step, with gradients, got no call")
            extracted = current.extraction.finish(
                sums, step=step, epoch=epoch, grad_norm=grad_norm, num_ranks=host.num_ranks
            )
            if extracted is not None:
                samples = self._with_previews(step, extracted)
        if extracted is None:
            return None
        now = time.perf_counter()
        took = now - current.started
        left = None
        if host.total_steps is not None:
            left = self._pace.seconds_left(step=step, total_steps=host.total_steps, began=current.started, now=now)
        train = TrainStep(
            step=step,
            epoch=epoch,
            **extracted.loss_sums.event_fields(self._settings.text_loss_weight),
            learning_rate=learning_rate,
            grad_norm=extracted.loss_sums.grad_norm,
            step_ms=took * 1000,
            logging_ms=current.seconds * 1000,
            sequence_length=extracted.sequence_length,
            samples=extracted.names,
            **throughput(extracted.sizes, took),
            **time_fields(extracted.rank_seconds),
            data_wait_ms=host.data_wait_ms,
            peak_memory_bytes=host.peak_memory_bytes,
            seconds_left=left,
        )
        return LoggedStep(step, train, extracted.counts, samples)

    def _with_previews(self, step: int, extracted: Extracted) -> tuple[PredictionSample, ...]:
        if self._previews is None or extracted.audio is None:
            return extracted.samples
        return self._previews.request(step, extracted.samples, extracted.audio)

    def end_evaluation(
        self, sums: Tensor, *, step: int, epoch: float, num_samples: int | None = None
    ) -> LoggedStep | None:
        """End the evaluation in progress.

        Args:
            sums: Result of `sums`, added up over the ranks.
            step: Optimizer steps done.
            epoch: Epochs done.
            num_samples: Samples evaluated on all ranks. By default, the samples observed by this process.

        Returns:
            The events of the evaluation, for `record`. None where there is nothing to record.
        """
        current = self._open.pop("eval")
        extracted: Extracted | None = None
        if current.is_observed:
            with self._guarded(current):
                extracted = current.extraction.finish(sums, step=step, epoch=epoch)
        if extracted is None:
            return None
        result = EvalResult(
            step=step,
            epoch=epoch,
            **extracted.loss_sums.event_fields(self._settings.text_loss_weight),
            num_samples=current.num_samples if num_samples is None else num_samples,
            duration_s=time.perf_counter() - current.started,
        )
        return LoggedStep(step, samples=extracted.samples, evaluation=result)

    def record(self, logged: LoggedStep | None) -> None:
        """Emit the events of a step or an evaluation, and the findings of the checks. None does nothing."""
        self.record_decoded()
        if logged is not None:
            self._record(logged)

    def _record(self, logged: LoggedStep) -> None:
        if self._keeper is not None:
            self._keeper.take(logged)
        for event in (logged.train, logged.evaluation, *logged.samples, *logged.counts, *logged.generations):
            if event is not None:
                self.emit(event)
        if self.checks is not None:
            with self._guarded(source="diagnoses"):
                self.checks.check(logged)

    # Probes

    def observe_speech(self, speak: Callable[[], Spoken | None]) -> None:
        """Take in what the model says of the probes. Its events follow when the speech is decoded.

        Args:
            speak: Lets the model speak. Returns None for speech that does not count.
        """
        with self._guarded(source="generation", is_timed=False):  # the event has the time
            spoken = speak()
            if spoken is not None and self._generations is not None:
                self._generations.add(spoken)

    def record_decoded(self) -> None:
        """Emit the events of the probes' speech that is decoded by now."""
        if self._generations is not None:
            for logged in self._generations.decoded():
                self._last_speech = logged.generations
                self._record(logged)

    def wait_for_speech(self, is_asked_to_stop: Callable[[], bool]) -> Sequence[GenerationSample]:
        """Wait for the decoder, emit the events of the probes' speech, and return the events of the last speech.

        Args:
            is_asked_to_stop: True ends the wait, with no events.
        """
        while self._generations is not None and self._generations.is_waiting and not is_asked_to_stop():
            self.record_decoded()
            time.sleep(_POLL_S)
        return () if is_asked_to_stop() else self._last_speech

    def record_probes(self, reads: Sequence[Callable[[], MicroBatch]], *, step: int, epoch: float) -> None:
        """Emit the predictions for samples that are the same at each logged step.

        Args:
            reads: Makes a forward pass of one sample and returns its streams, for each sample.
            step: Optimizer steps done.
            epoch: Epochs done.
        """
        samples: list[PredictionSample] = []
        shown = None if self._settings.shown is None else replace(self._settings.shown, samples=1)  # of each pass
        with self._guarded(source="probes"):
            for index, read in enumerate(reads):
                extraction = Extraction("probe", shown)
                extraction.observe(batch := read())
                device = batch.streams[0].labels_BSK.device
                sums = extraction.sums(self._settings.num_codebooks, device)
                extracted = extraction.finish(sums, step=step, epoch=epoch)
                if extracted is not None:
                    samples += (replace(sample, sample_index=index) for sample in extracted.samples)
        for sample in samples:
            self.emit(sample)

    @contextmanager
    def _guarded(
        self, current: _Open | None = None, source: str = "extraction", *, is_timed: bool = True
    ) -> Iterator[None]:
        """Take the time of a block. An error of logging in the block is counted and does not reach the training."""
        started = time.perf_counter()
        try:
            yield
        except LoggingError:
            raise
        except Exception as error:
            if self._settings.strict:
                raise LoggingError(source, error) from error
            if current is not None:
                current.extraction.failed = True
            self.emit.fail(source, error)
        finally:
            took = time.perf_counter() - started if is_timed else 0.0
            self.seconds += took
            if current is not None:
                current.seconds += took


@dataclass(slots=True)
class _Open:
    """The logged step or the evaluation in progress.

    Attributes:
        extraction: Collects the tensors.
        started: `time.perf_counter()` at the beginning.
        seconds: Host time spent on recording.
        is_observed: Whether a forward pass was observed.
        num_samples: Samples observed.
    """

    extraction: Extraction
    started: float
    seconds: float = 0.0
    is_observed: bool = False
    num_samples: int = 0
