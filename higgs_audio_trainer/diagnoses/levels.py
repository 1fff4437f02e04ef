"""Checks of the level of the losses: as high as chance, or lower than can be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from higgs_audio_trainer.diagnoses.finding import Check, Finding, Severity
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import IGNORE_INDEX, Modality, PredictionSample, TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

_MODALITIES: tuple[Modality, ...] = ("text", "audio")
_LEAST_TARGETS = 8  # below them no loss says anything
_LEAST_MARGIN = 0.01  # share of ln V: who is no further below chance has learned nothing of use
_SETTLED_STEPS = 20  # optimizer steps since the first due one, for a pretrained checkpoint
_RANDOM_STEPS = 100  # ... and for random weights, which stay near chance for long
_SETTLED_DUES = 3
_LATELY = 9  # due steps before this one
_EARLY_STEPS = 10
_TOO_GOOD = 0.05  # share of the loss of a model that knows nothing but frequencies
_VARIED = 2.0  # nats of the labels' entropy from which they vary
_VARIED_LABELS = 5
_LEAST_SLOTS = 30


@dataclass(frozen=True, slots=True)
class _Level:
    """The loss of a modality at one step.

    Attributes:
        loss: nats.
        targets: supervised slots.
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
        """Three standard errors of the mean; nats.

        Near a uniform distribution the cross-entropy of one slot, -ln p, has a standard deviation below 1 nat, and so
        the mean of n has one below 1 / sqrt(n).
        """
        return 3 / math.sqrt(max(1, self.targets))


def chance_level(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a loss of ln V, that of giving each of V tokens the same probability, or above it.

    At step 1 of a checkpoint that is not random; later, of any, once the learning rate rises no more and the loss has
    not fallen.
    """
    for modality in _MODALITIES if due.train is not None else ():
        vocabulary = _vocabulary(due.samples, modality)
        if due.train is None or vocabulary is None or (modality == "text" and history.run.text_loss_weight == 0):
            continue  # a text without weight is not learned on purpose
        level = _Level.of(due.train, modality)
        chance = math.log(vocabulary)
        slack = _LEAST_MARGIN * chance
        margin = max(level.noise, slack)
        if level.targets < _LEAST_TARGETS or not math.isfinite(level.loss) or level.loss < chance - margin:
            continue
        if due.step <= 1 and not history.run.base_is_random:
            severity: Severity = "warning" if history.run.base_is_random is None else "error"
            why = (
                "A pretrained model begins far below it: checkpoint, tokenizer or codec do not belong together, or "
                "labels are misaligned. Check that they come from one release"
            )
        elif _has_settled(due.train, history, modality) and _lately(due.train, history, modality) >= chance - slack:
            severity = "error"
            why = (
                "Nothing was learned after the warm-up: usually labels that do not belong to the inputs, a learning "
                "rate far off, or adapters without effect. Look at the first labels and at the learning rate"
            )
        else:
            continue
        yield _at_chance(due.train, modality, chance, severity, why)


def _at_chance(train: TrainStep, modality: Modality, chance: float, severity: Severity, why: str) -> Finding:
    level = _Level.of(train, modality)
    evidence: dict[str, object] = {"loss": level.loss, "chance": chance, "targets": level.targets}
    if modality == "audio":
        evidence["audio_loss_per_codebook"] = list(train.audio_loss_per_codebook)
    found = f"{modality} loss {level.loss:.2f} is that of chance, ln V = {chance:.2f}, or above it"
    return Finding(
        code="chance_level",
        severity=severity,
        message=f"{found} ({level.targets:,} targets). {why}.",
        evidence=evidence,
        modality=modality,
    )


def _lately(train: TrainStep, history: History, modality: Modality) -> float:
    """Mean loss of the last ten due steps: one batch may be of harder samples than others."""
    return fmean(_Level.of(step, modality).loss for step in (*history.steps[-_LATELY:], train))


def _has_settled(train: TrainStep, history: History, modality: Modality) -> bool:
    """Tell whether the learning rate rises no more, and the loss has not fallen since the first due step."""
    first, steps = history.first, history.steps
    wait = _RANDOM_STEPS if history.run.base_is_random else _SETTLED_STEPS
    if first is None or len(steps) + 1 < _SETTLED_DUES or train.step - first.step < wait:
        return False
    if not any(train.learning_rate <= earlier.learning_rate for earlier in steps):
        return False
    now, begin = _Level.of(train, modality), _Level.of(first, modality)
    last = [_Level.of(step, modality).loss for step in steps[-2:]] + [now.loss]
    if not all(map(math.isfinite, [*last, begin.loss])) or begin.targets < _LEAST_TARGETS:
        return False
    falling = last[0] > last[1] > last[2]
    return not falling and begin.loss - fmean(last) <= max(now.noise, begin.noise)


def too_good(due: LoggedStep, _: History) -> Iterator[Finding]:
    """Find a loss near zero before anything can have been learned by heart, of labels that vary."""
    train = due.train
    if train is None or not (due.step <= _EARLY_STEPS or train.epoch <= 1):
        return
    counts = {event.codebook: event for event in due.counts}
    findings = []
    if None in counts:
        findings.append(_low(train.text_loss, train.text_targets, counts[None]))
    for codebook, loss in enumerate(train.audio_loss_per_codebook):
        if counts:
            event = counts.get(codebook)
            findings.append(_low(loss, event.num_targets, event) if event else None)
        else:
            findings.append(_low_uncounted(due, train, codebook))
    num_codebooks = len(train.audio_loss_per_codebook)
    yield from per_codebook((finding for finding in findings if finding is not None), num_codebooks)


def _low(loss: float, targets: int, counts: TokenCounts) -> Finding | None:
    baseline = counts.unigram_loss
    if baseline is None or not math.isfinite(baseline) or baseline < _VARIED or counts.num_targets < _LEAST_SLOTS:
        return None
    return _too_low(loss, baseline, targets, counts.codebook, "the entropy of the labels' frequencies")


def _low_uncounted(due: LoggedStep, train: TrainStep, codebook: int) -> Finding | None:
    """Compare with ln V, where a log has no counts, if the labels shown vary."""
    samples = [sample for sample in due.samples if sample.codebook == codebook]
    labels = {label for sample in samples for window in (sample.first, sample.last) for label in window.labels}
    vocabulary = _vocabulary(samples, "audio")
    if vocabulary is None or len(labels - {IGNORE_INDEX}) < _VARIED_LABELS:
        return None
    targets = train.audio_targets // len(train.audio_loss_per_codebook)
    return _too_low(train.audio_loss_per_codebook[codebook], math.log(vocabulary), targets, codebook, "ln V")


def _too_low(loss: float, baseline: float, targets: int, codebook: int | None, name: str) -> Finding | None:
    if targets < _LEAST_SLOTS or not math.isfinite(loss) or not 0 <= loss < _TOO_GOOD * baseline:
        return None
    series = "text" if codebook is None else f"codebook {codebook}"
    message = (
        f"{series}: loss {loss:.4f} over {targets:,} targets, before anything can have been learned by heart; {name} "
        f"is {baseline:.2f}. Usually a leak: logits and labels at the same index, or the label in the input. "
        "Shift once: the row at p-1 predicts the token at p."
    )
    return Finding(
        code="too_good",
        severity="error",
        message=message,
        evidence={"loss": loss, "baseline": baseline, "targets": targets},
        modality="text" if codebook is None else "audio",
        codebook=codebook,
    )


def _vocabulary(samples: Sequence[PredictionSample], modality: Modality) -> int | None:
    """Return V, the last of the logits' dimensions; None where nothing says it."""
    shapes = [sample.logits_shape for sample in samples if sample.modality == modality and sample.logits_shape]
    return shapes[0][-1] if shapes and shapes[0][-1] > 1 else None


CHECKS: tuple[Check, ...] = (chance_level, too_good)
