"""Checks of the alignment: labels and predictions against the tokens of the neighbouring slots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from higgs_audio_trainer.diagnoses.finding import SHIFT_ONCE, Check, Finding, make_finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History, ShownSlots, series_of
from higgs_audio_trainer.diagnoses.statistics import ALPHA, clearly_beats
from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample, TokenCounts
from higgs_audio_trainer.logged_step import LoggedStep


class _Shift(NamedTuple):
    """Words for labels or predictions at a wrong offset."""

    token: str
    problem: str
    cause: str


_LABEL_OFFSETS = (-2, -1, 0, 1, 2)  # of `label_matches`
_INPUT = 4  # index of the row's input among the competing tokens
_OFFSETS = (-2, -1, 1, 2, -1)  # of the competing tokens, as in `offset_contested`; the input precedes the label
_COMPETING = (
    "the label at offset -2",
    "the label at offset -1",
    "the label at offset +1",
    "the label at offset +2",
    "the row's input token",
)
_SHIFTS: Mapping[int, _Shift] = {
    -2: _Shift(
        "the token before the row's input",
        "the model learns to go backwards",
        "Usually the labels are shifted in the wrong direction.",
    ),
    -1: _Shift(
        "the row's own input token",
        "labels are not shifted, the model learns to copy",
        "Usually the loss compares logits and labels at the same index.",
    ),
    1: _Shift(
        "the token after the next",
        "labels are shifted once too often, the model learns to skip a token",
        "Usually the data shifts the labels, and the loss shifts them again.",
    ),
    2: _Shift(
        "the second token after the next",
        "labels are shifted twice too often, the model learns to skip two tokens",
        "Usually several places shift the labels.",
    ),
}
_OUT_OF_PLACE = 0.01  # share of labels out of place that is tolerated
_FEW = 2  # number of labels out of place that is tolerated
_NAMED = 0.9  # share of labels that must fit at an offset before a message names the offset
_NAMING_ALPHA = 0.05  # the misalignment itself is certain; this level only decides whether an offset is named
_RANDOM_STEPS = 100  # optimizer steps until the predictions of random weights are evidence
_LEAST_SLOTS = 30
_LEAST_SHARE = 0.1
_LEAST_CERTAINTY = 0.6  # excess probability of each win; near 1 for a model that really predicts the competing token
_LEAST_DEVIATIONS = 5.0  # standard deviations of the excess probability
_LEAST_SHOWN = 20
_VARIED_LABELS = 5  # fewer different labels may be silence


def shifted_alignment(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find labels out of place, and predictions that fit a neighbouring token better than their label."""
    sequences = len(logged.train.samples) if logged.train is not None else 0
    learned = _may_have_learned(logged, history)
    findings = (
        _from_labels(counts, sequences) or (_from_predictions(counts) if learned else None) for counts in logged.counts
    )
    yield from per_codebook((finding for finding in findings if finding is not None), history.run.num_codebooks)
    yield from per_codebook(_shown_labels(logged, history), history.run.num_codebooks)


def copies_input(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find predictions equal to their row's input where the label is another token."""
    if not _may_have_learned(logged, history):
        return
    found = [finding for counts in logged.counts if (finding := _copies(counts)) is not None]
    known = {(finding.modality, finding.codebook) for finding in found}
    more = [finding for finding in _shown_copies(logged, history) if (finding.modality, finding.codebook) not in known]
    yield from per_codebook([*found, *more], history.run.num_codebooks)


def _may_have_learned(logged: LoggedStep, history: History) -> bool:
    """Return False early in a training of random weights, whose predictions are no evidence.

    A model that ties its embeddings to the output head predicts its input before it has learned anything.
    """
    return not history.run.base_is_random or logged.step > _RANDOM_STEPS


def preferred_token(counts: TokenCounts, *, alpha: float = ALPHA) -> int | None:
    """Return the index of the competing token that predictions fit clearly better than their label.

    Among n slots whose label differs from the competing token, a predictions equal the competing token and b
    predictions equal the label. Four conditions must hold:

    - n is at least 30.
    - The sign test of a against b is significant.
    - The effect matters: a >= 2 b and a >= n/10.
    - The excess probability, which the model gives the competing token beyond the token's frequency as the label, is
      at least n/10, 3 a/5 and five standard deviations. A 0/1 outcome has a variance of at most 1/4, so the number of N
      slots has a standard deviation below sqrt(N/4).

    The excess probability discounts repetition. Where a third of the tokens repeat, a good model may predict a
    repetition everywhere, but the model is calibrated, so on average its excess probability is zero. A single batch may
    repeat less than the data. In uneven data the model is then unsure, and its argmax repeats everywhere at once, hence
    the bound of 3 a/5.

    Before the test, a is reduced by the matches that the ends of the sequences explain. A constant prediction equals
    the token at offset o as often as the label, except in up to |o| slots at the end of each sequence.

    Args:
        counts: Counts of text or of a codebook.
        alpha: Rate of false alarms of the sign test.

    Returns:
        Index into `offset_contested` of the competing token with the most matches. None without such a token, or where
        figures are missing.
    """
    columns = (counts.offset_contested, counts.offset_matches, counts.offset_correct, counts.offset_surplus)
    if any(len(column) != len(_OFFSETS) for column in columns) or not counts.num_targets:
        return None
    sequences = counts.stop_targets + counts.masked.get("stop", 0)
    fits = []
    for index, (slots, matches, correct, excess) in enumerate(zip(*columns, strict=True)):
        wins = matches - abs(_OFFSETS[index]) * sequences
        matters = slots >= _LEAST_SLOTS and wins >= _LEAST_SHARE * slots and wins >= 2 * correct
        certain = math.isfinite(excess) and excess >= max(_LEAST_SHARE * slots, _LEAST_CERTAINTY * wins)
        certain = certain and excess >= _LEAST_DEVIATIONS * math.sqrt(0.25 * counts.num_targets)
        if matters and certain and clearly_beats(wins, correct, alpha=alpha):
            fits.append((matches, index))
    return max(fits)[1] if fits else None


def _from_labels(counts: TokenCounts, sequences: int) -> Finding | None:
    total, matches = counts.num_targets, counts.label_matches
    if len(matches) != len(_LABEL_OFFSETS) or not total:
        return None
    fitting = matches[2]
    if total - fitting <= max(_FEW, _OUT_OF_PLACE * total):
        return None
    offset = _named_offset(matches, total, sequences)
    if offset is None:
        sentences = (
            f"{total - fitting:,} of {total:,} labels are not the next token, and no offset from -2 to +2 fits.",
            "Usually the labels are shuffled or belong to another sample.",
            "Compare the codes and labels of one sample with its inputs.",
        )
    else:
        fit = matches[_LABEL_OFFSETS.index(offset)]
        sentences = _shift_sentences(f"{fit:,} of {total:,} labels", offset, f", only {fitting:,} the next token")
    return make_finding(
        "shifted_alignment",
        "error",
        *sentences,
        about=counts,
        evidence={"labels": total, "label_matches": list(matches), "offset": offset},
    )


def _shift_sentences(labels: str, offset: int, contrast: str = "") -> tuple[str, str, str]:
    shift = _SHIFTS[offset]
    sentence = f"{labels} equal {shift.token} (offset {offset:+d}){contrast}: {shift.problem}."
    return sentence, shift.cause, SHIFT_ONCE


def _named_offset(matches: tuple[int, ...], total: int, sequences: int) -> int | None:
    """Return the offset at which nearly all labels fit, if the offset clearly beats 0.

    Labels that fit at both offsets do not count. Their number is at least fit + matches[2] - total. At offset o, up to
    |o| + 1 labels at the end of each sequence have no token to fit.
    """
    fit, offset = max((fit, offset) for fit, offset in zip(matches, _LABEL_OFFSETS, strict=True) if offset != 0)
    both = max(0, fit + matches[2] - total)
    beats = clearly_beats(fit - both, matches[2] - both, alpha=_NAMING_ALPHA, least=1)
    return offset if beats and fit >= _NAMED * (total - sequences * (abs(offset) + 1)) else None


def _from_predictions(counts: TokenCounts) -> Finding | None:
    index = preferred_token(counts)
    if index is None:
        return None
    offset = _OFFSETS[index]
    shift = _SHIFTS[offset]
    return make_finding(
        "shifted_alignment",
        "error",
        f"{_matches_sentence(counts, index)}: {shift.problem}.",
        f"{shift.cause} Compare the shift of the labels with the shift of the logits.",
        SHIFT_ONCE,
        about=counts,
        evidence={**_match_evidence(counts, index), "offset": offset},
    )


def _copies(counts: TokenCounts) -> Finding | None:
    index = preferred_token(counts)
    if index is None or _OFFSETS[index] != -1:
        return None
    return _copying(counts, f"{_matches_sentence(counts, index)}.", _match_evidence(counts, index))


def _matches_sentence(counts: TokenCounts, index: int) -> str:
    matches, slots = counts.offset_matches[index], counts.offset_contested[index]
    return (
        f"predictions equal {_COMPETING[index]} in {matches:,} of {slots:,} slots with another label, and the "
        f"label in {counts.offset_correct[index]:,}"
    )


def _match_evidence(counts: TokenCounts, index: int) -> dict[str, Any]:
    return {
        "contested": counts.offset_contested[index],
        "matches": counts.offset_matches[index],
        "correct": counts.offset_correct[index],
        "surplus": counts.offset_surplus[index],
    }


def _copying(about: TokenCounts | PredictionSample, sentence: str, evidence: Mapping[str, Any]) -> Finding:
    cause = "Usually the loss compares logits and labels at the same index, or the input contains the label."
    return make_finding("copies_input", "error", sentence, cause, SHIFT_ONCE, about=about, evidence=evidence)


def _shown_labels(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find labels equal to their inputs in the shown samples, for logs without counts."""
    counted = {series_of(counts) for counts in logged.counts}
    for sample, shown in _shown(logged, history):
        if series_of(sample) in counted or shown.slots < _LEAST_SHOWN:
            continue
        if shown.label_is_input >= 0.95 * shown.slots and _different_labels(logged, sample) >= _VARIED_LABELS:
            yield make_finding(
                "shifted_alignment",
                "error",
                *_shift_sentences(f"{shown.label_is_input:,} of {shown.slots:,} shown labels", -1),
                about=sample,
                evidence={"slots": shown.slots, "label_is_input": shown.label_is_input, "offset": -1},
            )


def _shown_copies(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find copied inputs in the shown samples, unless the counts show an unsure model."""
    denied = {series_of(counts) for counts in logged.counts if _only_expects_repetition(counts)}
    for sample, shown in _shown(logged, history):
        slots = shown.slots - shown.label_is_input  # the input and the label differ in these slots
        copied = slots >= _LEAST_SHOWN and shown.copied >= 0.9 * slots and shown.correct <= 0.1 * slots
        repeated = shown.label_is_input > 0.3 * shown.slots
        if copied and not repeated and clearly_beats(shown.copied, shown.correct) and series_of(sample) not in denied:
            sentence = (
                f"predictions equal {_COMPETING[_INPUT]} in {shown.copied:,} of {slots:,} shown slots with another "
                f"label, and the label in {shown.correct:,}."
            )
            evidence = {"contested": slots, "matches": shown.copied, "correct": shown.correct}
            yield _copying(sample, sentence, evidence)


def _only_expects_repetition(counts: TokenCounts) -> bool:
    """Return True if predictions equal inputs over all slots too, with no more probability than the labels justify."""
    if min(len(counts.offset_surplus), len(counts.offset_contested), len(counts.offset_matches)) <= _INPUT:
        return False
    slots, matches = counts.offset_contested[_INPUT], counts.offset_matches[_INPUT]
    unsure = counts.offset_surplus[_INPUT] < max(_LEAST_SHARE * slots, _LEAST_CERTAINTY * matches)
    return unsure and matches >= 2 * _LEAST_SHARE * slots


def _shown(logged: LoggedStep, history: History) -> Iterator[tuple[PredictionSample, ShownSlots]]:
    """Yield a sample of text and of each codebook of a training step, with the counts of all slots shown so far."""
    if logged.train is None:
        return
    first: dict[str, PredictionSample] = {}
    slots = dict(history.shown)
    for sample in logged.samples:
        series = series_of(sample)
        first.setdefault(series, sample)
        slots[series] = slots.get(series, ShownSlots()).plus(sample)
    for series, sample in first.items():
        yield sample, slots[series]


def _different_labels(logged: LoggedStep, like: PredictionSample) -> int:
    windows = [
        window
        for sample in logged.samples
        if series_of(sample) == series_of(like)
        for window in (sample.first, sample.last)
    ]
    return len({label for window in windows for label in window.labels} - {IGNORE_INDEX})


CHECKS: tuple[Check, ...] = (shifted_alignment, copies_input)
