"""What the checks look at: a due step, and of what was before it as much as can be kept whatever a run's length.

A history is plain data, so that a checkpoint can hold it: a run that was interrupted goes on with what it knew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from higgs_audio_trainer.diagnoses.statistics import significantly_above
from higgs_audio_trainer.events import (
    IGNORE_INDEX,
    EvalResult,
    Modality,
    PredictionSample,
    RunStart,
    TokenCounts,
    TrainStep,
)
from higgs_audio_trainer.logged_step import LoggedStep

_MOST_STEPS = 64  # due steps that are remembered
_MOST_EVALUATIONS = 64
_MOST_SAMPLES = 4096  # fingerprints that are remembered


@dataclass(frozen=True, slots=True)
class Run:
    """What the checks need to know of a run; None where its log does not say it.

    Attributes:
        num_codebooks: K.
        num_train_samples: samples in the training manifest.
        base_is_random: whether the base checkpoint declares random weights.
        max_length: positions that the model was made for.
        text_loss_weight: weight of the text loss.
        mixed_precision: no, bf16 or fp16.
        modalities: what the model is trained on.
        stops: those of them that end with a stop token.
    """

    num_codebooks: int | None = None
    num_train_samples: int | None = None
    base_is_random: bool | None = None
    max_length: int | None = None
    text_loss_weight: float | None = None
    mixed_precision: str | None = None
    modalities: tuple[Modality, ...] = ("text", "audio")
    stops: tuple[Modality, ...] = ("text", "audio")

    @classmethod
    def of(cls, start: RunStart) -> Run:
        """Take what is needed from the first line of a log."""
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
        )


@dataclass(frozen=True, slots=True)
class ShownSlots:
    """What the slots that samples show have to do with their inputs: for logs without `token_counts`.

    Attributes:
        slots: supervised slots whose input is known.
        label_is_input: those whose label equals it.
        copied: of the others, those whose prediction equals it.
        correct: of the others, those whose prediction equals the label.
    """

    slots: int = 0
    label_is_input: int = 0
    copied: int = 0
    correct: int = 0

    def plus(self, sample: PredictionSample) -> ShownSlots:
        """Add the slots of one sample."""
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
    """Name what an event is about: `text`, or `audio 0`."""
    return "text" if event.codebook is None else f"audio {event.codebook}"


@dataclass(frozen=True, slots=True)
class MissedStops:
    """How long a series has learned the rest without a stop token being predicted.

    Attributes:
        since: the due step at which that began; None while it is not so.
        surprise: how unlikely it is by accident; nats. Were each of m stops right as often as other labels, with
            accuracy q, all would be missed with a chance of (1 - q)^m: that is -m log(1 - q) nats.
    """

    since: int | None = None
    surprise: float = 0.0

    def plus(self, counts: TokenCounts) -> MissedStops:
        """Add a due step."""
        if counts.stop_targets == 0 and counts.num_targets:
            return self  # it tells nothing of stops
        baseline = counts.unigram_accuracy
        missed = counts.stop_correct == 0 and 0 < counts.stop_targets <= counts.num_targets
        if not missed or baseline is None or not significantly_above(counts.num_correct, counts.num_targets, baseline):
            return MissedStops()
        accuracy = min(counts.num_correct / counts.num_targets, 0.99)
        surprise = self.surprise - counts.stop_targets * math.log1p(-accuracy)
        return MissedStops(counts.step if self.since is None else self.since, surprise)


@dataclass(slots=True)
class History:
    """What was before a due step.

    Attributes:
        run: the run.
        first: figures of the first due step.
        steps: figures of the last due steps, oldest first.
        counts: counts of the due step before, of text and of each codebook.
        evaluations: figures of the last evaluations, oldest first.
        fingerprints: of the samples seen: sample id by fingerprint, the most recent ones.
        shown: of all slots that were shown so far, by series: `text`, or `audio 0`.
        missed: of the stop tokens of each series.
    """

    run: Run = field(default_factory=Run)
    first: TrainStep | None = None
    steps: list[TrainStep] = field(default_factory=list)
    counts: list[TokenCounts] = field(default_factory=list)
    evaluations: list[EvalResult] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    shown: dict[str, ShownSlots] = field(default_factory=dict)
    missed: dict[str, MissedStops] = field(default_factory=dict)

    def add(self, due: LoggedStep) -> None:
        """Take in a due step that was checked."""
        if due.train is not None:
            self.first = self.first or due.train
            self.steps = [*self.steps, due.train][-_MOST_STEPS:]
            self.counts = list(due.counts)
            for counts in due.counts:
                series = series_of(counts)
                self.missed[series] = self.missed.get(series, MissedStops()).plus(counts)
            self._remember({print_: id_ for id_, print_ in due.train.samples.items()})
            self._remember({sample.fingerprint: sample.sample_id for sample in due.samples})
            for sample in due.samples:
                series = series_of(sample)
                self.shown[series] = self.shown.get(series, ShownSlots()).plus(sample)
        if due.evaluation is not None:
            self.evaluations = [*self.evaluations, due.evaluation][-_MOST_EVALUATIONS:]

    def _remember(self, samples: dict[str, str]) -> None:
        for print_, id_ in samples.items():
            self.fingerprints.setdefault(print_, id_)
        while len(self.fingerprints) > _MOST_SAMPLES:
            del self.fingerprints[next(iter(self.fingerprints))]
