"""Checks of the size of the losses: at chance level, or too low to be true."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from higgs_audio_trainer.diagnoses.finding import SHIFT_ONCE, Check, Finding, Severity, make_finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import IGNORE_INDEX, Modality, PredictionSample, TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

_MODALITIES: tuple[Modality, ...] = ("text", "audio")
_LEAST_TARGETS = 8  # a loss over fewer targets is no evidence
_LEAST_MARGIN = 0.01  # share of ln V; a model less far below chance has learned nothing of use
_SETTLED_STEPS = 20  # optimizer steps since the first logged step, for a pretrained checkpoint
_RANDOM_STEPS = 100  # the same for random weights, which stay near chance for long
_SETTLED_LOGGED_STEPS = 3
_LATELY = 9  # logged steps before the current step
_EARLY_STEPS = 10
_TOO_GOOD = 0.05  # share of the loss of a model that knows only the token frequencies
_VARIED = 2.0  # nats; labels of this entropy or more vary
_VARIED_LABELS = 5
_LEAST_SLOTS = 30


@dataclass(frozen=True, slots=True)
class _Level:
    """Loss of a modality at a step.

    Attributes:
        loss: Mean loss, nats.
        targets: Number of training targets.
    """

    loss: float
    targets: int

    @classmethod
    def of(cls, train: TrainStep, modality: Modality) -> _Level:
        if modality == "text":
            return cls(train.text_loss, train.text_targets)
        return cls(train.audio_loss, train.audio_targets)

    @property
    def noise(self) -> float:
        """Three standard errors of the mean loss, nats.

        Near a uniform distribution the cross-entropy of a slot, -ln p, has a standard deviation below 1 nat. The mean
        over n slots then has a standard deviation below 1 / sqrt(n).

        Example:
            >>> _Level(loss=6.9, targets=900).noise
            0.1
        """
        return 3 / math.sqrt(max(1, self.targets))


def chance_level(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a loss of ln V or more, where ln V is the loss of equal probabilities for V tokens.

    The check covers step 1 of a checkpoint without random weights, and later steps of any checkpoint once the learning
    rate has stopped rising and the loss has not fallen.
    """
    for modality in _MODALITIES if logged.train is not None else ():
        size = history.run.vocab_size if modality == "text" else history.run.codebook_size
        vocabulary = _vocabulary(logged.samples, modality) or size  # a step may have no samples
        if logged.train is None or vocabulary is None or (modality == "text" and history.run.text_loss_weight == 0):
            continue  # text with weight 0 is left untrained on purpose
        level = _Level.of(logged.train, modality)
        chance = math.log(vocabulary)
        slack = _LEAST_MARGIN * chance
        margin = max(level.noise, slack)
        if level.targets < _LEAST_TARGETS or not math.isfinite(level.loss) or level.loss < chance - margin:
            continue
        if logged.step <= 1 and not history.run.base_is_random:
            severity: Severity = "warning" if history.run.base_is_random is None else "error"
            explanation = (
                "A pretrained model starts far below chance. Usually checkpoint, tokenizer and codec do not belong "
                "together, or labels are misaligned. Check that all three come from one release."
            )
            if history.run.base_is_random is None:
                explanation += " If the training is from scratch, say so: PredictionLogger(pretrained=False)."
        elif (
            _has_settled(logged.train, history, modality) and _recent(logged.train, history, modality) >= chance - slack
        ):
            severity = "error"
            explanation = (
                "The model learned nothing after the warm-up. Usually the labels do not belong to the inputs, the "
                "learning rate is far off, or the adapters have no effect. Check the first labels and --lr."
            )
        else:
            continue
        yield _at_chance(logged.train, modality, chance, severity, explanation)


def _at_chance(train: TrainStep, modality: Modality, chance: float, severity: Severity, explanation: str) -> Finding:
    level = _Level.of(train, modality)
    more = {"audio_loss_per_codebook": list(train.audio_loss_per_codebook)} if modality == "audio" else {}
    return make_finding(
        "chance_level",
        severity,
        f"the {modality} loss of {level.loss:.2f} over {level.targets:,} targets is at chance level or above "
        f"(ln V = {chance:.2f}).",
        explanation,
        about=modality,
        evidence={"loss": level.loss, "chance": chance, "targets": level.targets, **more},
    )


def _recent(train: TrainStep, history: History, modality: Modality) -> float:
    """Return the mean loss of the last ten logged steps. A single batch may hold harder samples than others."""
    return fmean(_Level.of(step, modality).loss for step in (*history.steps[-_LATELY:], train))


def _has_settled(train: TrainStep, history: History, modality: Modality) -> bool:
    """Return True if the learning rate no longer rises and the loss has not fallen since the first logged step."""
    first, steps = history.first, history.steps
    wait = _RANDOM_STEPS if history.run.base_is_random else _SETTLED_STEPS
    if first is None or len(steps) + 1 < _SETTLED_LOGGED_STEPS or train.step - first.step < wait:
        return False
    if not any(train.learning_rate <= earlier.learning_rate for earlier in steps):
        return False
    now, begin = _Level.of(train, modality), _Level.of(first, modality)
    last = [_Level.of(step, modality).loss for step in steps[-2:]] + [now.loss]
    if not all(map(math.isfinite, [*last, begin.loss])) or begin.targets < _LEAST_TARGETS:
        return False
    falling = last[0] > last[1] > last[2]
    return not falling and begin.loss - fmean(last) <= max(now.noise, begin.noise)


def too_good(logged: LoggedStep, _: History) -> Iterator[Finding]:
    """Find a loss near zero of varied labels, before the model can have memorized the samples."""
    train = logged.train
    if train is None or not (logged.step <= _EARLY_STEPS or train.epoch <= 1):
        return
    counts = {event.codebook: event for event in logged.counts}
    findings = []
    if None in counts:
        findings.append(_below_entropy(train.text_loss, train.text_targets, counts[None]))
    for codebook, loss in enumerate(train.audio_loss_per_codebook):
        if counts:
            event = counts.get(codebook)
            findings.append(_below_entropy(loss, event.num_targets, event) if event else None)
        else:
            findings.append(_below_chance(logged, train, codebook))
    num_codebooks = len(train.audio_loss_per_codebook)
    yield from per_codebook((finding for finding in findings if finding is not None), num_codebooks)


def _below_entropy(loss: float, targets: int, counts: TokenCounts) -> Finding | None:
    """Compare the loss with the entropy of the labels, if the labels vary."""
    baseline = counts.unigram_loss
    if baseline is None or not math.isfinite(baseline) or baseline < _VARIED or counts.num_targets < _LEAST_SLOTS:
        return None
    return _too_low(loss, baseline, targets, counts, "the entropy of the labels")


def _below_chance(logged: LoggedStep, train: TrainStep, codebook: int) -> Finding | None:
    """Compare the loss with ln V in a log without counts, if the shown labels vary."""
    samples = [sample for sample in logged.samples if sample.codebook == codebook]
    labels = {label for sample in samples for window in (sample.first, sample.last) for label in window.labels}
    vocabulary = _vocabulary(samples, "audio")
    if vocabulary is None or len(labels - {IGNORE_INDEX}) < _VARIED_LABELS:
        return None
    targets = train.audio_targets // len(train.audio_loss_per_codebook)
    return _too_low(train.audio_loss_per_codebook[codebook], math.log(vocabulary), targets, samples[0], "chance (ln V)")


def _too_low(
    loss: float, baseline: float, targets: int, about: TokenCounts | PredictionSample, name: str
) -> Finding | None:
    if targets < _LEAST_SLOTS or not math.isfinite(loss) or not 0 <= loss < _TOO_GOOD * baseline:
        return None
    return make_finding(
        "too_good",
        "error",
        f"a loss of {loss:.4f} over {targets:,} targets is too low this early; {name} is {baseline:.2f}.",
        "Usually the labels leak: logits and labels are compared at the same index, or the input contains the label.",
        SHIFT_ONCE,
        about=about,
        evidence={"loss": loss, "baseline": baseline, "targets": targets},
    )


def _vocabulary(samples: Sequence[PredictionSample], modality: Modality) -> int | None:
    """Return V, the last dimension of the logits. None if no sample holds the shape."""
    shapes = [sample.logits_shape for sample in samples if sample.modality == modality and sample.logits_shape]
    return shapes[0][-1] if shapes and shapes[0][-1] > 1 else None


CHECKS: tuple[Check, ...] = (chance_level, too_good)
