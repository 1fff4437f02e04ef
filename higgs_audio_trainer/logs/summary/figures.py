"""A log in a few figures: how far it came, how well it learned, what went wrong, what the logging cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_audio_trainer.events import CapReached, Diagnosis, EvalResult, RunEnd, RunStart, SinkRecovered, TrainStep
from higgs_audio_trainer.logs.files import find
from higgs_audio_trainer.logs.gaps import Gap, gaps_in
from higgs_audio_trainer.logs.lines import Line, OnFault
from higgs_audio_trainer.logs.reader import marked_lines
from higgs_audio_trainer.logs.summary.curve import Curve, CurveSummary

_MOST_CODEBOOKS = 256
_MOST_ALARMS = 100  # of different names
_OTHER_ALARMS = "others"
_MOST_SERIES = 3  # of an alarm that are named
_SEVERITIES = ("note", "warning", "error")


@dataclass(frozen=True, slots=True)
class Figures:
    """Losses and accuracies of the steps of a training, or of its evaluations.

    Attributes:
        count: how many there were.
        first_step: of the first of them, None if there is none.
        last_step: of the last of them.
        losses: by what they are of: total, text, audio, codebook 0, codebook 1, ...; without targets there is none.
        accuracies: likewise; there is none of the total, and that of audio is the mean of the codebooks'.
    """

    count: int
    first_step: int | None
    last_step: int | None
    losses: dict[str, CurveSummary]
    accuracies: dict[str, CurveSummary]


@dataclass(slots=True)
class Alarm:
    """Something that went wrong.

    Attributes:
        name: code of a diagnosis, or what happened.
        severity: note, warning or error.
        count: how often.
        first_step: where first; None where it has no step.
        about: what it is about, the first of them: text, audio codebook 3.
    """

    name: str
    severity: str
    count: int
    first_step: int | None
    about: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Cost:
    """What the logging cost; times are None where the log has none.

    Attributes:
        logging_ms: in the logged steps; milliseconds.
        step_ms: those steps, logging included; milliseconds.
    """

    logging_ms: float | None = None
    step_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A log in figures. What it does not say is None.

    Attributes:
        path: where the log is.
        events: how many were read, over all attempts.
        start: the `run_start` of the last attempt.
        end: the `run_end` of the last attempt; None for a run that was killed or still runs.
        attempt: number of the last attempt.
        last_ts: time of the last event.
        training: figures of the training's steps.
        evaluation: figures of its evaluations.
        alarms: what went wrong, the worst first.
        gaps: what is missing; None for a log whose events have no numbers.
        cost: what the logging cost.
    """

    path: Path
    events: int
    start: RunStart | None
    end: RunEnd | None
    attempt: int | None
    last_ts: str | None
    training: Figures
    evaluation: Figures
    alarms: list[Alarm]
    gaps: list[Gap] | None
    cost: Cost


def summaries(*paths: str | Path, on_fault: OnFault) -> Iterator[Summary]:
    """Sum up logs, one after the other, in memory that does not grow with them.

    Args:
        paths: as for `read`.
        on_fault: is told of each line that cannot be used.

    Raises:
        UserError: as `read`.
    """
    for log in find(paths):
        path = log[0].files[0]
        count = sum(len(stream.files) for stream in log)
        summing = _Summing()
        found = gaps_in(summing.lines(marked_lines(log, on_fault)))
        yield summing.summary(path if count == 1 else path.parent, found)


@dataclass(slots=True)
class _Collected:
    """Figures while they are collected."""

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

    def figures(self) -> Figures:
        return Figures(
            self.count,
            self.first_step,
            self.last_step,
            {name: curve.summary() for name, curve in self.losses.items()},
            {name: curve.summary() for name, curve in self.accuracies.items()},
        )


class _Summing:
    """Sums up while records pass by."""

    def __init__(self) -> None:
        self._events = 0
        self._start: RunStart | None = None
        self._end: RunEnd | None = None
        self._attempt: int | None = None
        self._last_ts: str | None = None
        self._is_numbered = False
        self._rank: int | None = None  # all ranks log the same figures
        self._training, self._evaluation = _Collected(), _Collected()
        self._alarms: dict[tuple[str, str], Alarm] = {}
        self._cost = Cost()

    def lines(self, lines: Iterable[tuple[Line, bool]]) -> Iterator[Line]:
        """Pass on the lines of all attempts; count what is the run's."""
        for line, is_of_run in lines:
            event = line.event
            self._events += 1
            self._is_numbered |= event.seq is not None
            self._last_ts = event.ts or self._last_ts
            if event.attempt is not None:
                self._attempt = max(self._attempt or 0, event.attempt)
            if isinstance(event, SinkRecovered):
                self._alarm(f"sink {event.sink} failed for a time", "warning", None)
            elif isinstance(event, CapReached):
                self._alarm(f"sink {event.sink} reached its cap", "warning", None)
            elif is_of_run:
                self._take(event)
            yield line

    def _take(self, event: Any) -> None:
        if isinstance(event, RunStart):
            self._start, self._end = self._start or event, None
        elif isinstance(event, RunEnd):
            self._end = self._end or event
        elif isinstance(event, Diagnosis):
            self._take_diagnosis(event)
        elif isinstance(event, (TrainStep, EvalResult)):
            self._take_figures(event)
        if event.extra.get("nonfinite"):
            self._alarm(f"{event.event} with values that are not finite", "warning", getattr(event, "step", None))

    def _take_diagnosis(self, event: Diagnosis) -> None:
        """Take a fault, of which there may be one of each codebook; a note is none."""
        if event.severity == "note":
            return
        alarm = self._alarm(event.code, event.severity, event.step, event.code)
        alarm.count += event.repeats
        alarm.severity = max(alarm.severity, event.severity, key=_SEVERITIES.index)
        about = f"{event.modality or ''}{'' if event.codebook is None else f' codebook {event.codebook}'}"
        if about and about not in alarm.about and len(alarm.about) <= _MOST_SERIES:
            alarm.about.append(about)

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
                self._alarm(f"no {modality} targets", "warning", event.step)
        if _is_time(event.step_ms) and _is_time(event.logging_ms):
            self._cost.step_ms = (self._cost.step_ms or 0.0) + event.step_ms
            self._cost.logging_ms = (self._cost.logging_ms or 0.0) + event.logging_ms

    def _alarm(self, name: str, severity: str, step: int | None, code: str | None = None) -> Alarm:
        """Count an alarm; those with a code are one, whatever their severity."""
        key = (name, severity if code is None else "")
        if key not in self._alarms and len(self._alarms) >= _MOST_ALARMS:
            name, key = _OTHER_ALARMS, (_OTHER_ALARMS, severity)
        alarm = self._alarms.setdefault(key, Alarm(name, severity, count=0, first_step=step))
        alarm.count += 1
        return alarm

    def summary(self, path: Path, found: list[Gap]) -> Summary:
        """Sum up what passed by."""
        for code, count in self._end.diagnoses.items() if self._end else ():
            if alarm := self._alarms.get((code, "")):  # a diagnosis is said once, and counted
                alarm.count = count
        return Summary(
            path=path,
            events=self._events,
            start=self._start,
            end=self._end,
            attempt=self._attempt,
            last_ts=self._last_ts,
            training=self._training.figures(),
            evaluation=self._evaluation.figures(),
            alarms=sorted(self._alarms.values(), key=lambda alarm: -_SEVERITIES.index(alarm.severity)),
            gaps=found if self._is_numbered else None,
            cost=self._cost,
        )


def _is_time(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
