"""One pass over a log, into tables of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from higgs_audio_trainer.events import (
    CapReached,
    Diagnosis,
    EvalResult,
    PredictionSample,
    RunEnd,
    RunStart,
    SinkRecovered,
    TrainStep,
)
from higgs_audio_trainer.logs.typed import Logged
from higgs_audio_trainer.report.follower import Follower
from higgs_audio_trainer.report.thinning import Thinned

MOST_CODEBOOKS = 32
MOST_DIAGNOSES = 100


@dataclass(slots=True)
class Figures:
    """Losses and accuracies over steps, of the training or of evaluations.

    Attributes:
        loss, text_loss, audio_loss, text_accuracy, audio_accuracy: over steps; the last is the mean of the codebooks.
        losses, accuracies: of each codebook, at most `MOST_CODEBOOKS`.
        steps: how many were taken in.
        first_step, last_step: of them.
        codebooks: that there are.
    """

    loss: Thinned = field(default_factory=Thinned)
    text_loss: Thinned = field(default_factory=Thinned)
    audio_loss: Thinned = field(default_factory=Thinned)
    text_accuracy: Thinned = field(default_factory=Thinned)
    audio_accuracy: Thinned = field(default_factory=Thinned)
    losses: list[Thinned] = field(default_factory=list)
    accuracies: list[Thinned] = field(default_factory=list)
    steps: int = 0
    first_step: int | None = None
    last_step: int | None = None
    codebooks: int = 0

    def takes(self, step: int) -> bool:
        """Tell whether a step is a new one: of several ranks, the first that says it is believed."""
        return self.last_step is None or step > self.last_step

    def add(self, event: TrainStep | EvalResult) -> None:
        """Take the figures of a new step."""
        step = event.step
        self.steps += 1
        self.first_step = step if self.first_step is None else self.first_step
        self.last_step = step
        right = [item for item in event.audio_accuracy_per_codebook if item is not None]
        self.loss.add(step, event.loss)
        self.text_loss.add(step, event.text_loss if event.text_targets else None)
        self.audio_loss.add(step, event.audio_loss if event.audio_targets else None)
        self.text_accuracy.add(step, event.text_accuracy)
        self.audio_accuracy.add(step, fmean(right) if right else None)
        self.codebooks = max(self.codebooks, len(event.audio_loss_per_codebook))
        _add(self.losses, step, event.audio_loss_per_codebook, self.steps)
        _add(self.accuracies, step, event.audio_accuracy_per_codebook, self.steps)


def _add(series: list[Thinned], step: int, values: Sequence[float | None], steps: int) -> None:
    if steps == 1:
        series.extend(Thinned() for _ in values[:MOST_CODEBOOKS])
    for index, one in enumerate(series):
        one.add(step, values[index] if index < len(values) else None)


@dataclass(slots=True)
class Gathered:
    """What a report says of a log.

    Attributes:
        name: of the log, as it was given.
        folder: the run's output directory; None where it is not known.
        events: that were read.
        start: the first `run_start`.
        run_id: of it.
        end: the last `run_end`.
        train: figures of the training.
        evaluation: figures of evaluations.
        learning_rate, grad_norm, step_ms, logging_ms: over steps.
        step_ms_total, logging_ms_total: sums over the logged steps.
        follower: has the samples.
        diagnoses: at most `MOST_DIAGNOSES`: errors go before warnings, warnings before notes, early before late.
        severities: how many diagnoses there are of each severity.
        lost: events that sinks lost, as they say.
        full: whether a sink was full.
        first_ts, last_ts: when the first and the last event were made.
        faults: lines that hold no event, or a damaged one.
    """

    name: str
    folder: Path | None = None
    events: int = 0
    start: RunStart | None = None
    run_id: str | None = None
    end: RunEnd | None = None
    train: Figures = field(default_factory=Figures)
    evaluation: Figures = field(default_factory=Figures)
    learning_rate: Thinned = field(default_factory=Thinned)
    grad_norm: Thinned = field(default_factory=Thinned)
    step_ms: Thinned = field(default_factory=Thinned)
    logging_ms: Thinned = field(default_factory=Thinned)
    step_ms_total: float = 0.0
    logging_ms_total: float = 0.0
    follower: Follower = field(default_factory=Follower)
    diagnoses: list[Diagnosis] = field(default_factory=list)
    severities: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    full: bool = False
    first_ts: str | None = None
    last_ts: str | None = None
    faults: int = 0

    @property
    def last_step(self) -> int:
        """The last step that anything was drawn at."""
        ends = (self.train.last_step, self.evaluation.last_step, *(item.step for item in self.diagnoses))
        return max((step for step in ends if step is not None), default=0)


def gather(name: str, events: Iterable[Logged], folder: Path | None = None) -> Gathered:
    """Read a log once.

    Args:
        name: of the log.
        folder: the run's output directory, if it is known.
        events: in the order of `read`.
    """
    found = Gathered(name, folder)
    for event in events:
        _take(found, event)
    return found


def _take(found: Gathered, event: Any) -> None:
    found.events += 1
    if event.ts is not None:
        found.first_ts, found.last_ts = found.first_ts or event.ts, event.ts
    match event:
        case TrainStep():
            _take_step(found, event)
        case EvalResult() if found.evaluation.takes(event.step):
            found.evaluation.add(event)
        case PredictionSample():
            found.follower.add(event)
        case Diagnosis():
            _take_diagnosis(found, event)
        case _:
            _take_state(found, event)


def _take_state(found: Gathered, event: Any) -> None:
    match event:
        case RunStart() if found.start is None:
            found.start, found.run_id = event, getattr(event, "run_id", None)
        case RunEnd():
            found.end = event
        case SinkRecovered():
            found.lost += event.lost
        case CapReached():
            found.full = True


def _take_step(found: Gathered, event: TrainStep) -> None:
    if not found.train.takes(event.step):
        return
    found.train.add(event)
    found.learning_rate.add(event.step, event.learning_rate)
    found.grad_norm.add(event.step, event.grad_norm)
    found.step_ms.add(event.step, event.step_ms)
    found.logging_ms.add(event.step, event.logging_ms)
    if event.step_ms is not None and event.logging_ms is not None:  # a golden has no times
        found.step_ms_total += event.step_ms
        found.logging_ms_total += event.logging_ms


_WORST_FIRST = ("error", "warning", "note")


def _take_diagnosis(found: Gathered, event: Diagnosis) -> None:
    found.severities[event.severity] += 1
    if len(found.diagnoses) == MOST_DIAGNOSES:
        mildest = max(found.diagnoses, key=lambda known: (_WORST_FIRST.index(known.severity), known.step))
        if _WORST_FIRST.index(event.severity) >= _WORST_FIRST.index(mildest.severity):
            return
        found.diagnoses.remove(mildest)
    found.diagnoses.append(event)
