"""History of a run for the checks: plain data of bounded size, saved in checkpoints.

A resumed run restores the history of the interrupted run. The names of the dataclasses' fields are the keys of the
saved state and must not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from higgs_audio_trainer.diagnoses.statistics import significantly_above
from higgs_audio_trainer.events import (
    IGNORE_INDEX,
    EvalResult,
    GenerationSample,
    Modality,
    PredictionSample,
    RunStart,
    TokenCounts,
    TrainStep,
)
from higgs_audio_trainer.logged_step import LoggedStep

_MOST_STEPS = 64  # logged steps kept
_MOST_EVALUATIONS = 64
_MOST_SAMPLES = 4096  # fingerprints kept
_MOST_GENERATIONS = 8  # besides the first
_MOST_PROBES = 64  # of a generation


@dataclass(frozen=True, slots=True)
class Run:
    """Facts of a run for the checks. None marks a fact that the log does not hold.

    Attributes:
        num_codebooks: Number of codebooks K.
        num_train_samples: Samples in the training manifest.
        base_is_random: Whether the base checkpoint declares random weights.
        max_length: Positions of the model.
        text_loss_weight: Weight of the text loss.
        mixed_precision: no, bf16 or fp16.
        modalities: Modalities that the model is trained on.
        stops: Modalities that end with a stop token.
        vocab_size: Text tokens that the model predicts from.
        codebook_size: Entries of a codebook.
    """

    num_codebooks: int | None = None
    num_train_samples: int | None = None
    base_is_random: bool | None = None
    max_length: int | None = None
    text_loss_weight: float | None = None
    mixed_precision: str | None = None
    modalities: tuple[Modality, ...] = ("text", "audio")
    stops: tuple[Modality, ...] = ("text", "audio")
    vocab_size: int | None = None
    codebook_size: int | None = None

    @classmethod
    def of(cls, start: RunStart) -> Run:
        """Return the facts of the log's first event."""
        weight, precision = start.config.get("text_loss_weight"), start.config.get("mixed_precision")
        return cls(
            start.num_codebooks,
            start.num_train_samples,
            start.base_is_random,
            start.max_length,
            float(weight) if isinstance(weight, (int, float)) else None,
            precision if isinstance(precision, str) else None,
            start.modalities or ("text", "audio"),
            ("text", "audio") if start.stops is None else start.stops,
            start.vocab_size,
            start.codebook_size,
        )


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """Facts of an attempt for the checks. None marks a fact that the log does not hold.

    Attributes:
        start: Step of the checkpoint that the attempt resumed from; 0 for a new run.
        total_steps: Optimizer steps of the whole run.
        schedule: Form of a learning rate that falls to 0: linear or cosine.
        rate: Learning rate of the settings.
        changes: Settings that differ from those of the checkpoint, as [then, now] by name.
    """

    start: int = 0
    total_steps: int | None = None
    schedule: str | None = None
    rate: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, start: RunStart) -> AttemptFacts:
        """Return the facts of an attempt's `run_start`."""
        steps, rate = start.config.get("max_steps"), start.config.get("lr", start.config.get("learning_rate"))
        return cls(
            start.resumed_from_step or 0,
            start.total_steps or (steps if isinstance(steps, int) and steps > 0 else None),
            start.schedule,
            float(rate) if isinstance(rate, (int, float)) else None,
            dict(start.resume_changes or {}),
        )


@dataclass(frozen=True, slots=True)
class ShownSlots:
    """Labels and predictions of shown slots against the slots' inputs, for logs without `token_counts`.

    Attributes:
        slots: Supervised slots with a known input.
        label_is_input: Slots whose label equals the input.
        copied: Other slots whose prediction equals the input.
        correct: Other slots whose prediction equals the label.
    """

    slots: int = 0
    label_is_input: int = 0
    copied: int = 0
    correct: int = 0

    def plus(self, sample: PredictionSample) -> ShownSlots:
        """Return the counts with the slots of a sample added."""
        shown = [
            (token, label, predicted)
            for window in (sample.first, sample.last)
            for token, label, predicted in zip(window.inputs, window.labels, window.predictions, strict=True)
            if label != IGNORE_INDEX and token is not None
        ]
        others = [slot for slot in shown if slot[0] != slot[1]]
        return ShownSlots(
            self.slots + len(shown),
            self.label_is_input + len(shown) - len(others),
            self.copied + sum(token == predicted for token, _, predicted in others),
            self.correct + sum(label == predicted for _, label, predicted in others),
        )


def series_of(event: PredictionSample | TokenCounts) -> str:
    """Return the history's key for the text or the codebook of an event: `text`, or `audio 0`."""
    return "text" if event.codebook is None else f"audio {event.codebook}"


@dataclass(frozen=True, slots=True)
class MissedStops:
    """Time since a series predicts its other tokens well and no stop token.

    Attributes:
        since: First logged step of this state. None outside of this state.
        surprise: Negative logarithm of the probability of missing every stop token by chance, nats. A model that
            predicts m stop tokens as well as other labels, with accuracy q, misses all m with probability (1 - q)^m.
            The surprise is then -m log(1 - q).

    Example:
        >>> MissedStops().since is None, MissedStops(since=20, surprise=11.5).surprise
        (True, 11.5)
    """

    since: int | None = None
    surprise: float = 0.0

    def plus(self, counts: TokenCounts) -> MissedStops:
        """Return the state after the counts of a logged step."""
        if counts.stop_targets == 0 and counts.num_targets:
            return self  # a step without stop tokens is no evidence
        baseline = counts.unigram_accuracy
        missed = counts.stop_correct == 0 and 0 < counts.stop_targets <= counts.num_targets
        if not missed or baseline is None or not significantly_above(counts.num_correct, counts.num_targets, baseline):
            return MissedStops()
        accuracy = min(counts.num_correct / counts.num_targets, 0.99)
        surprise = self.surprise - counts.stop_targets * math.log1p(-accuracy)
        return MissedStops(counts.step if self.since is None else self.since, surprise)


@dataclass(slots=True)
class History:
    """Record of the run before a logged step.

    Attributes:
        run: Facts of the run.
        first: Figures of the first logged step.
        steps: Figures of the last logged steps, oldest first.
        counts: Counts of the previous logged step, of text and of each codebook.
        evaluations: Figures of the last evaluations, oldest first.
        fingerprints: Sample id by fingerprint, of the samples seen most recently.
        shown: Counts over all slots shown so far, by series (`text`, or `audio 0`).
        missed: State of the stop tokens by series.
        generations: Speech of the probes, without codes, of the first generation and of the last ones, oldest first.
        attempts: Facts of the attempts whose steps count, oldest first.
        peak_rate: Largest learning rate of a logged step.
    """

    run: Run = field(default_factory=Run)
    first: TrainStep | None = None
    steps: list[TrainStep] = field(default_factory=list)
    counts: list[TokenCounts] = field(default_factory=list)
    evaluations: list[EvalResult] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    shown: dict[str, ShownSlots] = field(default_factory=dict)
    missed: dict[str, MissedStops] = field(default_factory=dict)
    generations: list[list[GenerationSample]] = field(default_factory=list)
    attempts: list[AttemptFacts] = field(default_factory=list)
    peak_rate: float = 0.0

    def begin(self, attempt: AttemptFacts) -> None:
        """Begin an attempt. Earlier attempts that went beyond its checkpoint no longer count from there on.

        Example:
            >>> history = History()
            >>> for start in (0, 40, 20):
            ...     history.begin(AttemptFacts(start))
            >>> [attempt.start for attempt in history.attempts], history.attempt_at(20).start
            ([0, 20], 0)
        """
        self.attempts = [*(earlier for earlier in self.attempts if earlier.start < attempt.start), attempt]

    def attempt_at(self, step: int) -> AttemptFacts:
        """Return the attempt that made a step, without facts if the log does not hold its beginning."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.start < step), AttemptFacts())

    def add(self, logged: LoggedStep) -> None:
        """Add a checked step, evaluation or generation.

        Example:
            >>> history = History()
            >>> history.add(LoggedStep(20))
            >>> history.first, history.steps
            (None, [])
        """
        if logged.train is not None:
            self.first = self.first or logged.train
            if math.isfinite(logged.train.learning_rate):
                self.peak_rate = max(self.peak_rate, logged.train.learning_rate)
            self.steps = [*self.steps, logged.train][-_MOST_STEPS:]
            self.counts = list(logged.counts)
            for counts in logged.counts:
                series = series_of(counts)
                self.missed[series] = self.missed.get(series, MissedStops()).plus(counts)
            self._remember({print_: id_ for id_, print_ in logged.train.samples.items()})
            self._remember({sample.fingerprint: sample.sample_id for sample in logged.samples})
            for sample in logged.samples:
                series = series_of(sample)
                self.shown[series] = self.shown.get(series, ShownSlots()).plus(sample)
        if logged.evaluation is not None:
            self.evaluations = [*self.evaluations, logged.evaluation][-_MOST_EVALUATIONS:]
        if logged.generations:
            probes = [replace(sample, first=(), last=()) for sample in logged.generations[:_MOST_PROBES]]
            self.generations = [*self.generations, probes]
            self.generations = self.generations[:1] + self.generations[1:][-_MOST_GENERATIONS:]

    def _remember(self, samples: dict[str, str]) -> None:
        for print_, id_ in samples.items():
            self.fingerprints.setdefault(print_, id_)
        while len(self.fingerprints) > _MOST_SAMPLES:
            del self.fingerprints[next(iter(self.fingerprints))]
