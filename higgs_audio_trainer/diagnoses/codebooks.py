"""Checks of the codebooks: collapsed, dead, or in the wrong order.

The baseline is a unigram model, which knows only how often each label occurs. Its accuracy is the frequency of the most
frequent label, and its loss the entropy of the labels. Every model passes through this baseline in its first steps. So
no check reports a codebook whose loss still falls, or on the evidence of a single logged step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from higgs_audio_trainer.diagnoses.finding import Check, Finding, make_finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.diagnoses.statistics import ALPHA, significantly_above
from higgs_audio_trainer.events import TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

_LEAST_TARGETS = 50
_LEAST_STEP = 50  # before, a healthy model may predict a single token everywhere
_LEAST_LOGGED_STEPS = 3
_COLLAPSED_SHARE = 0.9  # share of the predictions
_VARIED = 0.5  # labels vary if the most frequent label is at most this multiple of the share above
_LEARNED = 0.15  # accuracy above the baseline's
_HARDLY = 0.05  # a codebook above the baseline at this significance is not dead
_WORSE = 1.1  # multiple of the lowest loss so far
_LABELS_A_TOKEN = 1.5  # see `_entropy_is_known`


def collapsed(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find text or codebooks with varied labels where nearly all predictions are one token, at two logged steps.

    Random weights may predict a single token for long before the model learns more. So the check reports:

    - a trained base model from step 50 and the third logged step on,
    - any model as soon as half of the other codebooks have learned, or after the series was clearly better before,
    - never a series whose loss still falls.
    """
    if logged.train is not None and logged.step > 1:
        before = {counts.codebook: counts for counts in history.counts}
        late = logged.step >= _LEAST_STEP and len(history.steps) + 1 >= _LEAST_LOGGED_STEPS
        late = late and history.run.base_is_random is not True
        audio = _audio(logged.counts)
        found = [
            _collapsed_finding(counts)
            for counts in logged.counts
            if _predicts_one_token(counts)
            and counts.codebook in before
            and _predicts_one_token(before[counts.codebook])
            and before[counts.codebook].top_prediction == counts.top_prediction
            and (late or _others_learned(counts.codebook, audio) or _was_better(counts, logged.train, history))
            and not _still_falls(counts, logged.train, history)
        ]
        yield from per_codebook(found, history.run.num_codebooks)


def _predicts_one_token(counts: TokenCounts) -> bool:
    share, frequent = counts.top_prediction_share, counts.unigram_accuracy
    if share is None or frequent is None or counts.num_targets < _LEAST_TARGETS:
        return False
    return share >= _COLLAPSED_SHARE and frequent <= _VARIED * share


def _collapsed_finding(counts: TokenCounts) -> Finding:
    flag = "the log" if counts.codebook is None else f"--log_codebooks {counts.codebook}"
    return make_finding(
        "collapsed",
        "warning",
        f"{counts.top_prediction_share:.0%} of the predictions are token {counts.top_prediction}, but the most "
        f"frequent label is only {counts.unigram_accuracy:.0%} of the labels: the model has collapsed to one token.",
        "Usually the learning rate is too high, or the codes come from another codec.",
        f"Look at the predictions with {flag}.",
        about=counts,
        evidence={
            "top_prediction": counts.top_prediction,
            "top_prediction_share": counts.top_prediction_share,
            "unigram_accuracy": counts.unigram_accuracy,
        },
    )


def dead_codebook(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find codebooks no better than the token frequencies, while at least half of the other codebooks learned."""
    for codebook, counts in _dead(logged, history).items():
        others = [other for k, other in _audio(logged.counts).items() if k != codebook]
        learned = sum(map(_learned, others))
        yield make_finding(
            "dead_codebook",
            "warning",
            f"accuracy {counts.num_correct / counts.num_targets:.1%}, no better than {counts.unigram_accuracy:.1%} for "
            f"always predicting the most frequent token, while {learned} of the other {len(others)} codebooks learned.",
            "Usually the codes of this codebook are shuffled or come from another codec.",
            f"Look at the predictions with --log_codebooks {codebook}.",
            about=counts,
            evidence={
                "correct": counts.num_correct,
                "targets": counts.num_targets,
                "unigram_accuracy": counts.unigram_accuracy,
                "unigram_loss": counts.unigram_loss,
                "others_learned": learned,
            },
        )


def codebook_order(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a dead codebook 0 below learning codebooks. Codebook 0 carries most of the sound and is learned first."""
    dead = _dead(logged, history)
    if 0 in dead:
        learned = [k for k, counts in _audio(logged.counts).items() if k and _learned(counts)]
        yield make_finding(
            "codebook_order",
            "warning",
            f"the codebook learned nothing, while {len(learned)} later and more difficult codebooks did.",
            "Usually the codebooks are in another order than the base model's, or frames and codebooks are swapped.",
            "Check that the codes have the shape [K, T], from coarse to fine.",
            about=dead[0],
            evidence={"learned": learned},
        )


def _dead(logged: LoggedStep, history: History) -> Mapping[int, TokenCounts]:
    """Return the counts of codebooks that are dead at this and the previous logged step, and whose loss is flat."""
    if logged.train is None or logged.step <= 1 or not history.steps:
        return {}
    before = {k: c for k, c in _audio(tuple(history.counts)).items() if c.step == history.steps[-1].step}
    audio = _audio(logged.counts)
    return {
        k: counts
        for k, counts in audio.items()
        if _knows_only_frequencies(counts, logged.train)
        and _others_learned(k, audio)
        and k in before
        and _knows_only_frequencies(before[k], history.steps[-1])
        and _others_learned(k, before)
        and not _still_falls(counts, logged.train, history)
    }


def _knows_only_frequencies(counts: TokenCounts, train: TrainStep) -> bool:
    loss, entropy = _loss(counts, train), counts.unigram_loss
    if counts.num_targets < _LEAST_TARGETS or loss is None or not _entropy_is_known(counts):
        return False
    return entropy is not None and loss >= entropy and not _above_baseline(counts, alpha=_HARDLY)


def _entropy_is_known(counts: TokenCounts) -> bool:
    """Return True if there are enough labels to know their entropy: 1.5 for each of exp(entropy) tokens.

    The entropy of a sample is too low by about (tokens - 1) / (2 x labels) (Miller 1955, "Note on the bias of
    information estimates"). With fewer labels a codebook that learned well would seem worse than the baseline.
    """
    entropy = counts.unigram_loss
    if entropy is None or not 0 <= entropy < math.log(max(counts.num_targets, 1)):
        return False
    return counts.num_targets >= _LABELS_A_TOKEN * math.exp(entropy)


def _others_learned(codebook: int | None, audio: Mapping[int, TokenCounts]) -> bool:
    """Return True if at least half of the other codebooks have learned."""
    others = [_learned(counts) for k, counts in audio.items() if k != codebook]
    return bool(others) and 2 * sum(others) >= len(others)


def _learned(counts: TokenCounts) -> bool:
    if counts.num_targets < _LEAST_TARGETS or counts.unigram_accuracy is None:
        return False
    return counts.num_correct / counts.num_targets >= counts.unigram_accuracy + _LEARNED and _above_baseline(counts)


def _above_baseline(counts: TokenCounts, alpha: float = ALPHA) -> bool:
    baseline = counts.unigram_accuracy
    if baseline is None or not 0 <= baseline <= 1 or not 0 <= counts.num_correct <= counts.num_targets:
        return False
    return significantly_above(counts.num_correct, counts.num_targets, baseline, alpha=alpha)


def _still_falls(counts: TokenCounts, train: TrainStep, history: History) -> bool:
    """Return True if the loss fell by more than noise in the second half of the run so far, or is not known."""
    earlier = [step for step in history.steps if step.step <= train.step / 2] or history.steps[:1]
    now, then = _loss(counts, train), _loss(counts, earlier[-1]) if earlier else None
    return now is None or then is None or then - now > _noise(counts)


def _was_better(counts: TokenCounts, train: TrainStep, history: History) -> bool:
    """Return True if the loss is above the lowest loss so far by 10 % and by more than noise."""
    now = _loss(counts, train)
    past = [loss for step in history.steps if (loss := _loss(counts, step)) is not None]
    if now is None or not past:
        return False
    return now > _WORSE * min(past) and now - min(past) > _noise(counts)


def _noise(counts: TokenCounts) -> float:
    """Return three standard errors of the difference of two mean losses. A slot's loss deviates by about 1 nat."""
    return 3 * math.sqrt(2 / max(counts.num_targets, 1))


def _loss(counts: TokenCounts, train: TrainStep) -> float | None:
    """Return the loss of text or of the codebook. None for an unknown loss, NaN or infinity."""
    if counts.codebook is None:
        loss = train.text_loss
    elif 0 <= counts.codebook < len(train.audio_loss_per_codebook):
        loss = train.audio_loss_per_codebook[counts.codebook]
    else:
        return None
    return loss if math.isfinite(loss) else None


def _audio(counts: tuple[TokenCounts, ...]) -> dict[int, TokenCounts]:
    return {series.codebook: series for series in counts if series.codebook is not None}


CHECKS: tuple[Check, ...] = (collapsed, dead_codebook, codebook_order)
