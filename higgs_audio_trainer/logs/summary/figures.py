"""Summary of a log as data: progress, losses and accuracies, problems, gaps and the cost of logging."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_audio_trainer.events import (
    CapReached,
    DatasetAudit,
    Diagnosis,
    EvalResult,
    GenerationSample,
    PrepareProgress,
    RunEnd,
    RunStart,
    SinkRecovered,
    TrainStep,
)
from higgs_audio_trainer.logs.attempt_totals import AttemptTotals
from higgs_audio_trainer.logs.gaps import Gap, gaps_in
from higgs_audio_trainer.logs.lines import LogLine, OnProblem
from higgs_audio_trainer.logs.reader import marked_lines
from higgs_audio_trainer.logs.run_filter import OnNotice
from higgs_audio_trainer.logs.runs import selected
from higgs_audio_trainer.logs.summary.curve import Curve, CurveSummary
from higgs_audio_trainer.logs.summary.speech import SpokenSteps

_MOST_CODEBOOKS = 256
_MOST_PROBLEMS = 100  # problems with different names
_OTHER_PROBLEMS = "others"
_MOST_SERIES = 3  # affected series named for a problem
_SEVERITIES = ("note", "warning", "error")


@dataclass(frozen=True, slots=True)
class SplitMetrics:
    """Losses and accuracies over the steps of a training, or over the evaluations.

    Attributes:
        count: Number of logged steps or evaluations.
        first_step: Step of the first event, None without events.
        last_step: Step of the last event, None without events.
        losses: Loss by name: total, text, audio, codebook 0, codebook 1, ... A loss without targets is None.
        accuracies: Accuracy by name, without total. The accuracy of audio is the mean over the codebooks.
    """

    count: int
    first_step: int | None
    last_step: int | None
    losses: dict[str, CurveSummary]
    accuracies: dict[str, CurveSummary]


@dataclass(slots=True)
class RunProblem:
    """A problem of the run.

    Attributes:
        name: Code of a diagnosis, or a description.
        severity: note, warning or error.
        count: Number of occurrences.
        first_step: Step of the first occurrence; None without a step.
        about: Affected series, the first few: text, audio codebook 3.
    """

    name: str
    severity: str
    count: int
    first_step: int | None
    about: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Cost:
    """Cost of logging; None if the log has no times.

    Attributes:
        logging_ms: Time of logging in the logged steps, in milliseconds.
        step_ms: Time of the logged steps with logging, in milliseconds.
    """

    logging_ms: float | None = None
    step_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of a log. Unknown values are None.

    Attributes:
        path: Path of the log.
        events: Number of events, over all attempts.
        start: `run_start` of the last attempt.
        end: `run_end` of the last attempt; None for a killed run or a running run.
        attempt: Number of the last attempt.
        attempts: Counts and times over the attempts.
        training: Metrics of the logged steps.
        evaluation: Metrics of the evaluations.
        problems: Problems of the run, worst first.
        gaps: Missing events; None for a log without sequence numbers.
        cost: Cost of logging.
        audit: Audit of the data, None for a log without one.
        progress: Last progress of a preparation before the training, None for a log without one.
        speech: Generated speech of the probes.
    """

    path: Path
    events: int
    start: RunStart | None
    end: RunEnd | None
    attempt: int | None
    attempts: AttemptTotals
    training: SplitMetrics
    evaluation: SplitMetrics
    problems: list[RunProblem]
    gaps: list[Gap] | None
    cost: Cost
    audit: DatasetAudit | None = None
    progress: PrepareProgress | None = None
    speech: SpokenSteps = field(default_factory=SpokenSteps)


def summaries(
    *paths: str | Path, run: str | None = None, on_problem: OnProblem, on_notice: OnNotice | None = None
) -> Iterator[Summary]:
    """Yield the summary of each log, in memory independent of the log's length.

    Args:
        paths: Paths as for `read`.
        run: Id of the run, as for `read`.
        on_problem: Receives each invalid line.
        on_notice: Receives each message about a log, as for `read`.

    Raises:
        UserError: As for `read`, or all events of a log are of a newer version.
    """
    for log in selected(paths, run, on_notice, needs_known=True):
        path = log.files[0].files[0]
        count = sum(len(group.files) for group in log.files)
        summing = _Summing()
        found = gaps_in(summing.lines(marked_lines(log, on_problem)))
        yield summing.summary(path if count == 1 else path.parent, found)


@dataclass(slots=True)
class _Collected:
    """Collector of the metrics of a split."""

    count: int = 0
    first_step: int | None = None
    last_step: int | None = None
    losses: dict[str, Curve] = field(default_factory=dict)
    accuracies: dict[str, Curve] = field(default_factory=dict)

    def add(self, event: TrainStep | EvalResult) -> None:
        self.count += 1
        self.first_step = event.step if self.first_step is None else self.first_step
        self.last_step = event.step
        accuracies = event.audio_accuracy_per_codebook[:_MOST_CODEBOOKS]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        self._add_loss("total", event.step, event.loss)
        self._add_loss("text", event.step, event.text_loss if event.text_targets else None)
        self._add_loss("audio", event.step, event.audio_loss if event.audio_targets else None)
        self._add_accuracy("text", event.step, event.text_accuracy)
        self._add_accuracy("audio", event.step, sum(known) / len(known) if known else None)
        for codebook, loss in enumerate(event.audio_loss_per_codebook[:_MOST_CODEBOOKS]):
            has_targets = codebook >= len(accuracies) or accuracies[codebook] is not None
            self._add_loss(f"codebook {codebook}", event.step, loss if has_targets else None)
        for codebook, accuracy in enumerate(accuracies):
            self._add_accuracy(f"codebook {codebook}", event.step, accuracy)

    def _add_loss(self, name: str, step: int, value: float | None) -> None:
        self.losses.setdefault(name, Curve(min)).add(step, value)

    def _add_accuracy(self, name: str, step: int, value: float | None) -> None:
        self.accuracies.setdefault(name, Curve(max)).add(step, value)

    def figures(self) -> SplitMetrics:
        return SplitMetrics(
            self.count,
            self.first_step,
            self.last_step,
            {name: curve.summary() for name, curve in self.losses.items()},
            {name: curve.summary() for name, curve in self.accuracies.items()},
        )


class _Summing:
    """Collector of a summary while lines pass."""

    def __init__(self) -> None:
        self._events = 0
        self._start: RunStart | None = None
        self._end: RunEnd | None = None
        self._attempt: int | None = None
        self._attempts = AttemptTotals()
        self._is_numbered = False
        self._rank: int | None = None  # rank of the first figures; all ranks log the same figures
        self._training, self._evaluation = _Collected(), _Collected()
        self._problems: dict[tuple[str, str], RunProblem] = {}
        self._times: dict[int, Counter[str]] = {}  # occurrences of each diagnosis by attempt
        self._cost = Cost()
        self._audit: DatasetAudit | None = None
        self._progress: PrepareProgress | None = None
        self._speech = SpokenSteps()

    def lines(self, lines: Iterable[tuple[LogLine, bool]]) -> Iterator[LogLine]:
        """Pass on the lines of all attempts, and collect the lines of the current attempts."""
        for line, is_of_run in lines:
            event = line.event
            self._events += 1
            self._is_numbered |= event.seq is not None
            self._attempts.add(event)
            if event.attempt is not None:
                self._attempt = max(self._attempt or 0, event.attempt)
            if isinstance(event, SinkRecovered):
                self._problem(f"sink {event.sink} failed temporarily", "warning", None)
            elif isinstance(event, CapReached):
                self._problem(f"sink {event.sink} reached its size limit", "warning", None)
            elif is_of_run:
                self._take(event)
            yield line

    def _take(self, event: Any) -> None:
        if isinstance(event, RunStart):
            self._take_start(event)
        elif isinstance(event, RunEnd):
            self._end = self._end or event
        elif isinstance(event, Diagnosis):
            self._take_diagnosis(event)
        elif isinstance(event, (TrainStep, EvalResult)):
            self._take_figures(event)
        elif isinstance(event, GenerationSample):
            self._speech.add(event)
        elif isinstance(event, PrepareProgress):
            self._progress = event
        elif isinstance(event, DatasetAudit) and self._audit is None:
            self._take_audit(event)
        if event.extra.get("nonfinite"):
            self._problem(f"{event.event} with non-finite values", "warning", getattr(event, "step", None))

    def _take_start(self, event: RunStart) -> None:
        """Take the first `run_start` of an attempt. Standard input has those of earlier attempts too."""
        attempt = getattr(event, "attempt", None) or 0
        if self._start is None or attempt > (getattr(self._start, "attempt", None) or 0):
            self._start = event
        self._end = None

    def _take_diagnosis(self, event: Diagnosis) -> None:
        """Count a warning or an error. Diagnoses with the same code are a single problem for all codebooks."""
        if event.severity == "note":
            return
        problem = self._problem(event.code, event.severity, event.step, event.code)
        problem.count += event.repeats
        attempt = getattr(event, "attempt", None) or 0
        self._times.setdefault(attempt, Counter())[event.code] += 1 + event.repeats
        problem.severity = max(problem.severity, event.severity, key=_SEVERITIES.index)
        about = f"{event.modality or ''}{'' if event.codebook is None else f' codebook {event.codebook}'}"
        if about and about not in problem.about and len(problem.about) <= _MOST_SERIES:
            problem.about.append(about)

    def _take_audit(self, event: DatasetAudit) -> None:
        self._audit = event
        for finding in event.findings:
            if finding.severity != "note":
                self._problem(f"{finding.code} in the data", finding.severity, None).count = finding.count

    def _take_figures(self, event: Any) -> None:
        if self._rank is None:
            self._rank = event.rank
        if event.rank != self._rank:
            return
        if isinstance(event, EvalResult):
            self._evaluation.add(event)
            return
        self._training.add(event)
        modalities = None if self._start is None else self._start.modalities
        for modality, targets in (("text", event.text_targets), ("audio", event.audio_targets)):
            if targets == 0 and (modalities is None or modality in modalities):
                self._problem(f"no {modality} targets", "warning", event.step)
        if _is_time(event.step_ms) and _is_time(event.logging_ms):
            self._cost.step_ms = (self._cost.step_ms or 0.0) + event.step_ms
            self._cost.logging_ms = (self._cost.logging_ms or 0.0) + event.logging_ms

    def _problem(self, name: str, severity: str, step: int | None, code: str | None = None) -> RunProblem:
        """Count a problem. Problems with a code are merged whatever their severity."""
        key = (name, severity if code is None else "")
        if key not in self._problems and len(self._problems) >= _MOST_PROBLEMS:
            name, key = _OTHER_PROBLEMS, (_OTHER_PROBLEMS, severity)
        problem = self._problems.setdefault(key, RunProblem(name, severity, count=0, first_step=step))
        problem.count += 1
        return problem

    def summary(self, path: Path, found: list[Gap]) -> Summary:
        """Return the summary of the lines passed so far."""
        for code, count in self._attempts.diagnoses.items():
            # The log has each diagnosis once; `run_end` has the number of occurrences.
            if problem := self._problems.get((code, "")):
                unended = (times for attempt, times in self._times.items() if attempt not in self._attempts.ended)
                problem.count = count + sum(times[code] for times in unended)
        return Summary(
            path=path,
            events=self._events,
            start=self._start,
            end=self._end,
            attempt=self._attempt,
            attempts=self._attempts,
            training=self._training.figures(),
            evaluation=self._evaluation.figures(),
            problems=sorted(self._problems.values(), key=lambda problem: -_SEVERITIES.index(problem.severity)),
            gaps=found if self._is_numbered else None,
            cost=self._cost,
            audit=self._audit,
            progress=self._progress,
            speech=self._speech,
        )


def _is_time(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
