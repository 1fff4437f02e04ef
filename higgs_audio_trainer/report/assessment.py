"""Assessment of a run in a headline and a few sentences: trend, chance, evaluation, speech and findings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean, variance
from typing import NamedTuple

from higgs_audio_trainer.logs.bounded_series import NumberSeries
from higgs_audio_trainer.report.chart import Chance
from higgs_audio_trainer.report.gather import GatheredLog
from higgs_audio_trainer.report.scale import share
from sinks.terminal.words import count_of

_AT_CHANCE = 0.1  # nats around ln V, as on the console
_PARTS = 20  # of a series; the first and the last count for its trend
_FLAT = 0.01  # share of the first loss; a smaller change is no trend
_RISEN = 0.1  # share of the best evaluation loss, as in the check `overfit`
_NEAR = 0.1  # share of the training loss; a smaller gap of the evaluation is none
_MOST_CODES = 4  # codes of diagnoses in a sentence
_LONGEST_MESSAGE = 500  # characters
_LONGEST_CODE = 40  # characters
_SEVERITIES = ("error", "warning", "note")
_UNLEARNED = ("at", "above")  # sides of the chance level


class Ends(NamedTuple):
    """Beginning and end of a series, each as a mean over a twentieth of the logged steps, so that noise is no trend.

    Attributes:
        first: Mean at the beginning.
        last: Mean at the end.
        first_step: First step.
        last_step: Last step.
        noise: Three standard errors of the difference of the means. 0 where each is the mean of one step.
    """

    first: float
    last: float
    first_step: int
    last_step: int
    noise: float

    @classmethod
    def of(cls, series: NumberSeries) -> Ends | None:
        """Return the ends of a series. None for a series without values.

        Example:
            >>> series = NumberSeries(160)
            >>> for step, loss in enumerate([4.0, 3.0, 2.0], start=1):
            ...     series.add(step, loss)
            >>> Ends.of(series)
            Ends(first=4.0, last=2.0, first_step=1, last_step=3, noise=0.0)
        """
        if series.first is None or series.last is None:
            return None
        means = [bucket.mean for bucket in series.buckets if bucket.mean is not None]
        count = max(1, len(means) // _PARTS)
        begin, end = means[:count], means[-count:]
        noise = 3 * math.sqrt((variance(begin) + variance(end)) / count) if count > 1 else 0.0
        return cls(fmean(begin), fmean(end), series.first[0], series.last[0], noise)

    @property
    def trend(self) -> str:
        """Return `fell`, `rose` or `flat`."""
        change = self.last - self.first
        if abs(change) <= max(_FLAT * abs(self.first), self.noise):
            return "flat"
        return "fell" if change < 0 else "rose"


class Assessment(NamedTuple):
    """Assessment of a run.

    Attributes:
        level: `good`, `note`, `warning` or `error`; the colour of the headline.
        headline: The most important fact.
        sentences: Facts with numbers: losses, evaluation, speech, findings.
    """

    level: str
    headline: str
    sentences: list[str]


def assess(log: GatheredLog) -> Assessment:
    """Return the assessment of a run."""
    level, headline = _headline(log)
    sentences = [*_worst(log), *_losses(log), *_evaluation(log), *_speech(log), _findings(log)]
    return Assessment(level, headline, sentences)


def _main(log: GatheredLog) -> str:
    return "text" if log.is_silent else "audio"


def _headline(log: GatheredLog) -> tuple[str, str]:
    """Return the level and the headline. The most alarming fact counts."""
    modality = _main(log)
    loss = Ends.of(_loss_of(log, modality))
    if wrong := _listed(log, "error") or _not_finite(log):
        return "error", f"Something is wrong: {wrong}"
    if loss is None:
        return "note", "No losses are logged yet"
    if log.train.steps == 1:
        return "note", "Too early to tell: one step is logged"
    if fault := _fault(log, modality, loss):
        return "warning", fault
    learning = "The model learned" if log.end is not None else "The model is learning"
    if count := log.severities["warning"]:
        return "warning", f"{learning}, with {count_of(count, 'warning')}: {_listed(log, 'warning')}"
    return "good", f"{learning}: the {_name(log, modality)} fell from {_nats(loss.first)} to {_nats(loss.last)}"


def _not_finite(log: GatheredLog, *, of_evaluations: bool = False) -> str:
    """Return a loss that ends in values that are NaN, infinite or too large to draw, and their first step, as a text.

    Empty without such a loss. The log of another trainer may have no diagnosis of such values.
    """
    for modality in ("audio", "text"):
        since = _loss_of(log, modality, of_evaluations=of_evaluations).broken_since
        if since is not None:
            owner = " of the evaluation" if of_evaluations else ""
            return f"the {_name(log, modality)}{owner} is not a finite number since step {since:,}"
    return ""


def _fault(log: GatheredLog, modality: str, loss: Ends) -> str:
    """Return the headline about a fault of the learning. Empty without a fault.

    Args:
        log: Contents of the log.
        modality: text or audio.
        loss: Training loss of the modality, nats.
    """
    name, chance = _name(log, modality), log.chance(modality)
    evaluated, best = _loss_of(log, modality, of_evaluations=True).last, best_evaluation(log)
    if broken := _not_finite(log, of_evaluations=True):
        return broken[0].upper() + broken[1:]
    if (side := _side(loss.last, chance)) in _UNLEARNED:
        return f"Nothing learned {_so_far(log)}: the {name} is {side} chance"
    if best is not None and _has_risen(log, modality):
        return f"Overfitting: the evaluation was best at step {best[0]:,}"
    if evaluated is not None and (side := _side(evaluated[1], chance)) in _UNLEARNED:
        return f"Learned by heart: the training {name} fell, but the evaluation is {side} chance"
    if loss.trend != "fell":
        return f"Not learning: the {name} {'rose' if loss.trend == 'rose' else 'is flat'}"
    return ""


def _so_far(log: GatheredLog) -> str:
    return "so far" if log.end is None else f"in {count_of(log.end.step, 'step')}"


def _name(log: GatheredLog, modality: str) -> str:
    """Return the name of a loss. A model with one modality has "loss" alone."""
    has_one = log.is_silent or log.train.text_loss.is_empty
    return "loss" if has_one else f"{modality} loss"


def _loss_of(log: GatheredLog, modality: str, *, of_evaluations: bool = False) -> NumberSeries:
    curves = log.evaluation if of_evaluations else log.train
    loss = curves.audio_loss if modality == "audio" else curves.text_loss
    return curves.loss if loss.is_empty else loss


def _worst(log: GatheredLog) -> Iterator[str]:
    """Yield the message of the first of the most severe diagnoses, which has cause and remedy. Notes have none."""
    for severity in _SEVERITIES[:-1]:
        if found := [item for item in log.diagnoses if item.severity == severity]:
            yield min(found, key=lambda item: item.step).message[:_LONGEST_MESSAGE]
            return


def _losses(log: GatheredLog) -> Iterator[str]:
    """Yield a sentence about the training loss of each modality."""
    for modality in ("audio", "text"):
        curves = log.train
        loss, accuracy = (
            (curves.audio_loss, curves.audio_accuracy)
            if modality == "audio"
            else (curves.text_loss, curves.text_accuracy)
        )
        ends = Ends.of(loss)
        if broken := sum(bucket.broken for bucket in loss.buckets):
            yield f"The {_name(log, modality)} is not a finite number at {count_of(broken, 'logged step')}."
        if ends is None:
            continue
        verb = "is" if ends.trend == "flat" else f"{ends.trend} to"
        sentence = f"The {_name(log, modality)} {verb} {_nats(ends.last)} at step {ends.last_step:,}"
        if ends.first_step != ends.last_step:
            sentence += f", from {_nats(ends.first)} at step {ends.first_step:,}"
        sentence += _beside_chance(ends.last, log.chance(modality))
        correct = "" if accuracy.last is None else f". {share(accuracy.last[1])} of the predictions are correct"
        yield f"{sentence}{correct}."


def _nats(loss: float) -> str:
    """Return a loss for a sentence.

    Example:
        >>> _nats(7.6083), _nats(0.07857)
        ('7.61', '0.079')
    """
    return f"{loss:,.2f}" if abs(loss) >= 1 else f"{loss:.3f}"


def _beside_chance(loss: float, chance: Chance | None) -> str:
    """Return a loss beside the chance level, as a part of a sentence."""
    if chance is None:
        return ""
    return f", {_side(loss, chance)} chance (ln {chance.vocabulary:,} = {chance.value:.2f})"


def _side(loss: float, chance: Chance | None) -> str:
    """Return `above`, `at` or `below` for a loss beside the chance level. Empty for an unknown level."""
    if chance is None:
        return ""
    if abs(loss - chance.value) <= _AT_CHANCE:
        return "at"
    return "above" if loss > chance.value else "below"


def best_evaluation(log: GatheredLog) -> tuple[int, float] | None:
    """Return the step and the value of the lowest loss of an evaluation, of the audio if audio is trained."""
    buckets = _loss_of(log, _main(log), of_evaluations=True).buckets
    return min((bucket.low for bucket in buckets if bucket.low is not None), key=lambda point: point[1], default=None)


def _has_risen(log: GatheredLog, modality: str) -> bool:
    last, best = _loss_of(log, modality, of_evaluations=True).last, best_evaluation(log)
    return last is not None and best is not None and best[1] > 0 and last[1] >= (1 + _RISEN) * best[1]


def _evaluation(log: GatheredLog) -> Iterator[str]:
    """Yield a sentence about the last evaluation beside the training and the best evaluation."""
    modality = _main(log)
    last, best = _loss_of(log, modality, of_evaluations=True).last, best_evaluation(log)
    if last is None or best is None:
        if log.evaluation.steps:
            yield "No evaluation has a loss that is a finite number."
        elif log.train.steps:
            yield "The log has no evaluation, so learning and memorizing look the same here."
        return
    trained = Ends.of(_loss_of(log, modality))
    beside = ""
    if trained is not None:
        gap = last[1] - trained.last
        direction = "above" if gap > 0 else "below"
        is_near = abs(gap) <= _NEAR * abs(trained.last)
        beside = ", close to the training" if is_near else f", {_nats(abs(gap))} {direction} the training"
    rise = (
        f"The best was {_nats(best[1])} at step {best[0]:,}" if best[0] != last[0] else "No other evaluation was better"
    )
    yield f"The {_name(log, modality)} of the evaluation is {_nats(last[1])} at step {last[0]:,}{beside}. {rise}."


def _speech(log: GatheredLog) -> Iterator[str]:
    *_, fact = ("", *log.speech.facts())
    if fact:
        yield f"Speech: {fact}."


def _findings(log: GatheredLog) -> str:
    """Return a sentence about the findings of the checks, the worst first."""
    parts = [
        f"{count_of(count, severity)} ({_listed(log, severity)})"
        for severity in _SEVERITIES
        if (count := log.severities[severity])
    ]
    is_clean = not (log.severities["error"] or log.severities["warning"])
    return f"Checks: {'; '.join([*(['no errors or warnings'] if is_clean else []), *parts])}."


def _listed(log: GatheredLog, severity: str) -> str:
    """Return the codes of the diagnoses of a severity with the first step of each code."""
    steps: dict[str, int] = {}
    for item in sorted(log.diagnoses, key=lambda item: item.step):
        if item.severity == severity:
            steps.setdefault(item.code[:_LONGEST_CODE], item.step)
    texts = [f"{code} from step {step:,}" for code, step in steps.items()]
    more = f" and {len(texts) - _MOST_CODES} more" if len(texts) > _MOST_CODES else ""
    return ", ".join(texts[:_MOST_CODES]) + more
