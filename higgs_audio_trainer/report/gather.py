"""Contents of a log for a report, collected in one pass and in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from higgs_audio_trainer.events import (
    CapReached,
    DatasetAudit,
    Diagnosis,
    EvalResult,
    GenerationSample,
    PredictionSample,
    RunEnd,
    RunStart,
    SinkRecovered,
    TrainStep,
)
from higgs_audio_trainer.logs.attempt_totals import AttemptTotals
from higgs_audio_trainer.logs.bounded_series import NumberSeries
from higgs_audio_trainer.logs.lines import LogLine
from higgs_audio_trainer.logs.summary.speech import SpokenSteps
from higgs_audio_trainer.report.chart import Chance
from higgs_audio_trainer.report.follower import SampleFollower
from higgs_audio_trainer.report.voice import VoiceFollower

MOST_CODEBOOKS = 32
MOST_DIAGNOSES = 100
_MOST_BUCKETS = 160
_LARGEST = 1e30  # larger values would flatten the chart
_WORST_FIRST = ("error", "warning", "note")


def chart_series() -> NumberSeries:
    """Return an empty series for a chart."""
    return NumberSeries(_MOST_BUCKETS, largest=_LARGEST)


@dataclass(slots=True)
class SplitCurves:
    """Losses and accuracies over the logged steps of the training, or over the evaluations.

    Attributes:
        loss: Mean loss over all training targets.
        text_loss: Mean loss over the text targets.
        audio_loss: Mean loss over the audio targets.
        text_accuracy: Accuracy of the text targets.
        audio_accuracy: Mean of the accuracies of the codebooks.
        losses: Loss of each codebook, for at most `MOST_CODEBOOKS` codebooks.
        accuracies: Accuracy of each codebook, for at most `MOST_CODEBOOKS` codebooks.
        steps: Number of steps.
        first_step: First step. None without steps.
        last_step: Last step. None without steps.
        codebooks: Number of codebooks of the model.
    """

    loss: NumberSeries = field(default_factory=chart_series)
    text_loss: NumberSeries = field(default_factory=chart_series)
    audio_loss: NumberSeries = field(default_factory=chart_series)
    text_accuracy: NumberSeries = field(default_factory=chart_series)
    audio_accuracy: NumberSeries = field(default_factory=chart_series)
    losses: list[NumberSeries] = field(default_factory=list)
    accuracies: list[NumberSeries] = field(default_factory=list)
    steps: int = 0
    first_step: int | None = None
    last_step: int | None = None
    codebooks: int = 0

    def is_new(self, step: int) -> bool:
        """Return True if no rank has reported this step or a later step."""
        return self.last_step is None or step > self.last_step

    def add(self, event: TrainStep | EvalResult) -> None:
        """Add the losses and accuracies of a new step."""
        step = event.step
        self.steps += 1
        self.first_step = step if self.first_step is None else self.first_step
        self.last_step = step
        accuracies = [item for item in event.audio_accuracy_per_codebook if item is not None]
        self.loss.add(step, event.loss)
        self.text_loss.add(step, event.text_loss if event.text_targets else None)
        self.audio_loss.add(step, event.audio_loss if event.audio_targets else None)
        self.text_accuracy.add(step, event.text_accuracy)
        self.audio_accuracy.add(step, fmean(accuracies) if accuracies else None)
        self.codebooks = max(self.codebooks, len(event.audio_loss_per_codebook))
        self._add(self.losses, event.audio_loss_per_codebook)
        self._add(self.accuracies, event.audio_accuracy_per_codebook)

    def _add(self, series: list[NumberSeries], values: Sequence[float | None]) -> None:
        """Add the values of the last step to one series for each codebook of the first step."""
        if self.steps == 1:
            series.extend(chart_series() for _ in values[:MOST_CODEBOOKS])
        for index, one in enumerate(series):
            one.add(self.last_step or 0, values[index] if index < len(values) else None)


@dataclass(slots=True)
class GatheredLog:
    """Contents of a log for a report.

    Attributes:
        name: Name of the log on the command line.
        folder: Output directory of the run. None if the directory is unknown.
        events: Number of events, over all attempts.
        start: `run_start` of the last attempt, of the lowest rank.
        run_id: Id of the run that `start` has.
        end: `run_end` of the last attempt, of the lowest rank. None for a killed run or a running run.
        attempts: Counts and times over the attempts.
        vocabularies: Number of tokens of each modality, from `run_start`, else from the shapes of the logits.
        train: Losses and accuracies of the training.
        evaluation: Losses and accuracies of the evaluations.
        learning_rate: Learning rate of each logged step.
        grad_norm: Gradient norm of each logged step.
        step_ms: Duration of each logged step in milliseconds.
        logging_ms: Time for logging of each logged step in milliseconds.
        step_ms_total: Sum of the durations of the logged steps in milliseconds.
        logging_ms_total: Sum of the times for logging of the logged steps in milliseconds.
        follower: Samples with the most logged steps.
        voice: Generated speech of the probes.
        speech: Generated speech of the last step in a few numbers.
        diagnoses: At most `MOST_DIAGNOSES` diagnoses. Severe diagnoses displace milder ones, and early ones later ones.
        severities: Number of diagnoses of each severity.
        audit: Audit of the data. None for a log without one.
        lost: Number of events that sinks lost, from `sink_recovered` events.
        full: True if a sink reached its size limit.
        damaged_lines: Number of lines without a valid event.
    """

    name: str
    folder: Path | None = None
    events: int = 0
    start: RunStart | None = None
    run_id: str | None = None
    end: RunEnd | None = None
    attempts: AttemptTotals = field(default_factory=AttemptTotals)
    vocabularies: dict[str, int] = field(default_factory=dict)
    train: SplitCurves = field(default_factory=SplitCurves)
    evaluation: SplitCurves = field(default_factory=SplitCurves)
    learning_rate: NumberSeries = field(default_factory=chart_series)
    grad_norm: NumberSeries = field(default_factory=chart_series)
    step_ms: NumberSeries = field(default_factory=chart_series)
    logging_ms: NumberSeries = field(default_factory=chart_series)
    step_ms_total: float = 0.0
    logging_ms_total: float = 0.0
    follower: SampleFollower = field(default_factory=SampleFollower)
    voice: VoiceFollower = field(default_factory=VoiceFollower)
    speech: SpokenSteps = field(default_factory=SpokenSteps)
    diagnoses: list[Diagnosis] = field(default_factory=list)
    severities: Counter[str] = field(default_factory=Counter)
    audit: DatasetAudit | None = None
    lost: int = 0
    full: bool = False
    damaged_lines: int = 0

    @property
    def last_step(self) -> int:
        """Return the last step of a training step, an evaluation or a diagnosis. 0 without steps."""
        steps = (self.train.last_step, self.evaluation.last_step, *(item.step for item in self.diagnoses))
        return max((step for step in steps if step is not None), default=0)

    @property
    def is_silent(self) -> bool:
        """Return True if no audio is trained."""
        return self.train.audio_loss.is_empty and self.evaluation.audio_loss.is_empty

    def chance(self, modality: str) -> Chance | None:
        """Return the chance level of a modality. None if the size of its vocabulary is unknown."""
        vocabulary = self.vocabularies.get(modality, 0)
        return Chance.of(vocabulary) if vocabulary > 1 else None

    @property
    def hidden_codebooks(self) -> int:
        """Return the number of codebooks beyond `MOST_CODEBOOKS`."""
        return max(0, self.train.codebooks - MOST_CODEBOOKS)


def gather(name: str, lines: Iterable[tuple[LogLine, bool]], folder: Path | None = None) -> GatheredLog:
    """Return the contents of a log for a report.

    Args:
        name: Name of the log on the command line.
        lines: Lines of all attempts, each with True for a line of the final run, as from `marked_lines`.
        folder: Output directory of the run. None if the directory is unknown.
    """
    log = GatheredLog(name, folder)
    for line, is_current in lines:
        _add_of_attempts(log, line.event)
        if is_current:
            _add_event(log, line.event)
    return log


def _add_of_attempts(log: GatheredLog, event: Any) -> None:
    """Add an event of any attempt."""
    log.events += 1
    log.attempts.add(event)
    match event:
        case SinkRecovered():
            log.lost += event.lost
        case CapReached():
            log.full = True


def _add_event(log: GatheredLog, event: Any) -> None:
    """Add an event of the final run."""
    match event:
        case TrainStep() if log.train.is_new(event.step):
            _add_step(log, event)
        case EvalResult() if log.evaluation.is_new(event.step):
            log.evaluation.add(event)
        case PredictionSample():
            log.follower.add(event)
            log.voice.add_label(event.sample_id, event.label_audio)
            if event.logits_shape:
                log.vocabularies.setdefault(event.modality, event.logits_shape[-1])
        case GenerationSample():
            log.voice.add(event)
            log.speech.add(event)
        case Diagnosis():
            _add_diagnosis(log, event)
        case DatasetAudit() if log.audit is None:
            log.audit = event
        case RunStart() if log.start is None or _attempt(event) > _attempt(log.start):
            # Standard input has the events of replaced attempts too.
            log.start, log.run_id, log.end = event, getattr(event, "run_id", None), None
            sizes = {"text": event.vocab_size, "audio": event.codebook_size}
            log.vocabularies |= {modality: size for modality, size in sizes.items() if size is not None}
        case RunEnd() if log.end is None or _attempt(event) > _attempt(log.end):
            log.end = event


def _attempt(event: Any) -> int:
    return getattr(event, "attempt", None) or 0


def _add_step(log: GatheredLog, event: TrainStep) -> None:
    log.train.add(event)
    log.learning_rate.add(event.step, event.learning_rate)
    log.grad_norm.add(event.step, event.grad_norm)
    log.step_ms.add(event.step, event.step_ms)
    log.logging_ms.add(event.step, event.logging_ms)
    if event.step_ms is not None and event.logging_ms is not None:  # goldens have no times
        log.step_ms_total += event.step_ms
        log.logging_ms_total += event.logging_ms


def _add_diagnosis(log: GatheredLog, event: Diagnosis) -> None:
    log.severities[event.severity] += 1
    if len(log.diagnoses) == MOST_DIAGNOSES:
        mildest = max(log.diagnoses, key=lambda known: (_WORST_FIRST.index(known.severity), known.step))
        if _WORST_FIRST.index(event.severity) >= _WORST_FIRST.index(mildest.severity):
            return
        log.diagnoses.remove(mildest)
    log.diagnoses.append(event)
