"""What a codebook has learned, next to always saying its most frequent token, and next to the other codebooks.

The baseline is what knows only how often each label occurs (a unigram model): it is right as often as the most
frequent label occurs, and its loss is the entropy of the labels. Every model passes through it in its first steps.
So nothing is said before the series' own loss has stopped falling, nor on the strength of one due step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from higgs_audio_trainer.diagnoses.finding import Check, Finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.diagnoses.statistics import ALPHA, significantly_above
from higgs_audio_trainer.events import TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

_LEAST_TARGETS = 50
_LEAST_STEP = 50  # until then a model may well say one token everywhere
_LEAST_DUE_STEPS = 3
_COLLAPSED_SHARE = 0.9  # of the predictions
_VARIED = 0.5  # the labels vary where the most frequent one is at most this part of that share
_LEARNED = 0.15  # accuracy above the baseline's
_HARDLY = 0.05  # who is above the baseline at this level already is not dead
_WORSE = 1.1  # times its lowest loss
_LABELS_A_TOKEN = 1.5  # see `_entropy_is_known`


def collapsed(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a series that says one token nearly everywhere though its labels vary, here and at the due step before.

    Random weights may well say one token for long before they learn more. So it is said of a base model that was
    trained, from step 50 and the third due step on; of any as soon as half of the other codebooks have learned, or
    where the series was clearly better before; and never while its loss still falls.
    """
    if due.train is not None and due.step > 1:
        before = {counts.codebook: counts for counts in history.counts}
        late = due.step >= _LEAST_STEP and len(history.steps) + 1 >= _LEAST_DUE_STEPS
        late = late and history.run.base_is_random is not True
        found = [
            _collapsed_finding(counts)
            for counts in due.counts
            if _says_one_token(counts)
            and counts.codebook in before
            and _says_one_token(before[counts.codebook])
            and before[counts.codebook].top_prediction == counts.top_prediction
            and (
                late or _others_learned(counts.codebook, _audio(due.counts)) or _was_better(counts, due.train, history)
            )
            and not _still_falls(counts, due.train, history)
        ]
        yield from per_codebook(found, history.run.num_codebooks)


def _says_one_token(counts: TokenCounts) -> bool:
    share, frequent = counts.top_prediction_share, counts.unigram_accuracy
    if share is None or frequent is None or counts.num_targets < _LEAST_TARGETS:
        return False
    return share >= _COLLAPSED_SHARE and frequent <= _VARIED * share


def _collapsed_finding(counts: TokenCounts) -> Finding:
    series = "text" if counts.codebook is None else f"codebook {counts.codebook}"
    return Finding(
        code="collapsed",
        severity="warning",
        message=f"{series} has collapsed: {counts.top_prediction_share:.0%} of its predictions are token "
        f"{counts.top_prediction}, while the most frequent label is {counts.unigram_accuracy:.0%} of the labels. "
        f"Usually the learning rate is too high, or the codes are from another codec.{_look(counts.codebook)}",
        evidence={
            "top_prediction": counts.top_prediction,
            "top_prediction_share": counts.top_prediction_share,
            "unigram_accuracy": counts.unigram_accuracy,
        },
        modality=counts.modality,
        codebook=counts.codebook,
    )


def dead_codebook(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find codebooks that know no more than how often each token occurs, while at least half of the others learned."""
    for codebook, counts in _dead(due, history).items():
        others = [other for k, other in _audio(due.counts).items() if k != codebook]
        learned = sum(map(_learned, others))
        yield Finding(
            code="dead_codebook",
            severity="warning",
            message=f"codebook {codebook} is dead: {counts.num_correct / counts.num_targets:.1%} right, always saying "
            f"its most frequent token gets {counts.unigram_accuracy:.1%}, while {learned} of the other {len(others)} "
            f"learned. Usually its codes are shuffled or from another codec.{_look(codebook)}",
            evidence={
                "correct": counts.num_correct,
                "targets": counts.num_targets,
                "unigram_accuracy": counts.unigram_accuracy,
                "unigram_loss": counts.unigram_loss,
                "others_learned": learned,
            },
            modality="audio",
            codebook=codebook,
        )


def codebook_order(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a first codebook that is dead while later ones learn: it carries most of the sound and is learned first."""
    if 0 in _dead(due, history):
        learned = [k for k, counts in _audio(due.counts).items() if k and _learned(counts)]
        yield Finding(
            code="codebook_order",
            severity="warning",
            message=f"codebook 0 learns nothing while {len(learned)} later ones do, and it is the easiest one. Usually "
            "the codebooks are in another order than the base model's, or frames and codebooks are swapped. Check the "
            "codes: [K, T], coarse to fine",
            evidence={"learned": learned},
            modality="audio",
            codebook=0,
        )


def _dead(due: LoggedStep, history: History) -> Mapping[int, TokenCounts]:
    """Return the dead codebooks: dead here and at the due step before, and their loss does not fall any more."""
    if due.train is None or due.step <= 1 or not history.steps:
        return {}
    before = {k: c for k, c in _audio(tuple(history.counts)).items() if c.step == history.steps[-1].step}
    return {
        k: counts
        for k, counts in _audio(due.counts).items()
        if _knows_only_frequencies(counts, due.train)
        and _others_learned(k, _audio(due.counts))
        and k in before
        and _knows_only_frequencies(before[k], history.steps[-1])
        and _others_learned(k, before)
        and not _still_falls(counts, due.train, history)
    }


def _knows_only_frequencies(counts: TokenCounts, train: TrainStep) -> bool:
    loss, entropy = _loss(counts, train), counts.unigram_loss
    if counts.num_targets < _LEAST_TARGETS or loss is None or not _entropy_is_known(counts):
        return False
    return entropy is not None and loss >= entropy and not _above_baseline(counts, alpha=_HARDLY)


def _entropy_is_known(counts: TokenCounts) -> bool:
    """Tell whether there are labels enough to know their entropy: 1.5 for each of its exp(entropy) tokens.

    The entropy of a sample is too low by about (tokens - 1) / (2 x labels) (Miller 1955, "Note on the bias of
    information estimates"): with fewer labels a codebook that learned well would seem worse than the baseline.
    """
    entropy = counts.unigram_loss
    if entropy is None or not 0 <= entropy < math.log(max(counts.num_targets, 1)):
        return False
    return counts.num_targets >= _LABELS_A_TOKEN * math.exp(entropy)


def _others_learned(codebook: int | None, audio: Mapping[int, TokenCounts]) -> bool:
    """Tell whether at least half of the other codebooks have learned."""
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
    """Tell whether the loss fell since half of the steps ago by more than noise, or whether that is not known."""
    earlier = [step for step in history.steps if step.step <= train.step / 2] or history.steps[:1]
    now, then = _loss(counts, train), _loss(counts, earlier[-1]) if earlier else None
    return now is None or then is None or then - now > _noise(counts)


def _was_better(counts: TokenCounts, train: TrainStep, history: History) -> bool:
    """Tell whether the loss is above its lowest so far by 10 % and by more than noise."""
    now = _loss(counts, train)
    past = [loss for step in history.steps if (loss := _loss(counts, step)) is not None]
    if now is None or not past:
        return False
    return now > _WORSE * min(past) and now - min(past) > _noise(counts)


def _noise(counts: TokenCounts) -> float:
    """Three standard errors of the difference of two means over the targets; a slot's loss has a deviation of 1 nat."""
    return 3 * math.sqrt(2 / max(counts.num_targets, 1))


def _loss(counts: TokenCounts, train: TrainStep) -> float | None:
    """Return the loss of the series; None where it is not known or not finite."""
    if counts.codebook is None:
        loss = train.text_loss
    elif 0 <= counts.codebook < len(train.audio_loss_per_codebook):
        loss = train.audio_loss_per_codebook[counts.codebook]
    else:
        return None
    return loss if math.isfinite(loss) else None


def _audio(counts: tuple[TokenCounts, ...]) -> dict[int, TokenCounts]:
    return {one.codebook: one for one in counts if one.codebook is not None}


def _look(codebook: int | None) -> str:
    return "" if codebook is None else f" Look at them: --log_codebooks {codebook}"


CHECKS: tuple[Check, ...] = (collapsed, dead_codebook, codebook_order)
