"""Checks of the alignment: are labels and predictions those of the slot that they are compared at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from higgs_audio_trainer.diagnoses.finding import Check, Finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History, ShownSlots, series_of
from higgs_audio_trainer.diagnoses.statistics import ALPHA, clearly_beats
from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample, TokenCounts
from higgs_audio_trainer.logged_step import LoggedStep

_LABEL_OFFSETS = (-2, -1, 0, 1, 2)  # of `label_matches`
_INPUT = 4  # the place of the row's input in `offset_contested` and the like
_PLACES = (-2, -1, 1, 2, -1)  # their offsets; the input stands one before the label
_NAMES = (
    "the label at offset -2",
    "the label at offset -1",
    "the label at offset +1",
    "the label at offset +2",
    "the input",
)
_MEANING = {
    -2: "each row is to say the token before its own input",
    -1: "each is its row's own input, so logits and labels are compared at the same index and the model learns to copy",
    1: "each row is to say the token after the next, usually labels shifted beforehand that the loss shifts again",
    2: "each row is to say the second token after the next, usually labels shifted twice too often",
}
_SHIFT_ONCE = "Shift once, in one place: the row at p-1 predicts the token at p"
_OUT_OF_PLACE = 0.01  # share of the labels, and at least _FEW, that may be out of place
_FEW = 2
_NAMED = 0.9  # share of the labels that must fit at an offset for it to be named
_NAMING_ALPHA = 0.05  # the fault is certain already; this decides only whether an offset is named
_LEAST_SLOTS = 30
_LEAST_SHARE = 0.1
_LEAST_MEANT = 0.6  # surplus a win; near 1 where the model is sure of the place that it takes tokens from
_LEAST_SURPLUS = 5.0  # standard deviations
_LEAST_SHOWN = 20
_VARIED_LABELS = 5  # fewer may be silence


def shifted_alignment(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find labels that are not in their place, and predictions that fit another place better than their own."""
    findings = (_from_labels(counts) or _from_predictions(counts) for counts in due.counts)
    yield from per_codebook((finding for finding in findings if finding is not None), history.run.num_codebooks)
    yield from per_codebook(_shown_labels(due, history), history.run.num_codebooks)


def copies_input(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find predictions that equal their row's input beyond what labels equal to it explain."""
    found = [finding for counts in due.counts if (finding := _copies(counts)) is not None]
    known = {(finding.modality, finding.codebook) for finding in found}
    more = [finding for finding in _shown_copies(due, history) if (finding.modality, finding.codebook) not in known]
    yield from per_codebook([*found, *more], history.run.num_codebooks)


def winner(counts: TokenCounts, *, alpha: float = ALPHA) -> int | None:
    """Return the place that predictions fit clearly better than their label: where it is in `offset_contested`.

    Of n slots whose label differs from the token of that place, a predictions equal that token and b their label. Four
    things must hold: 30 slots; the sign test of a against b; an effect that matters, a >= 2 b and a >= n/10; and a
    surplus of the token's probability over how often it is the label, of n/10, 3 a/5 and five standard deviations. A
    0/1 outcome has a variance of at most 1/4, so that of N slots has a standard deviation below sqrt(N/4). The surplus
    is what discounts repetition: where a third of the tokens repeat, a good model may expect a repetition everywhere.
    It is so on the average: a batch may repeat less than the data do. But it then is as unsure as the data are uneven,
    and its argmax wins everywhere at once: hence 3 a/5.

    Of a, as many are left out as the ends of the sequences explain: a constant prediction equals the token of
    offset o and the label of its slot equally often, but for up to |o| slots at the end of each sequence.

    Returns:
        The place with the most matches; None if there is none, or figures are missing.
    """
    columns = (counts.offset_contested, counts.offset_matches, counts.offset_correct, counts.offset_surplus)
    if any(len(column) != len(_PLACES) for column in columns) or not counts.num_targets:
        return None
    sequences = counts.stop_targets + counts.masked.get("stop", 0)
    fits = []
    for place, (contested, matches, correct, surplus) in enumerate(zip(*columns, strict=True)):
        wins = matches - abs(_PLACES[place]) * sequences
        matters = contested >= _LEAST_SLOTS and wins >= _LEAST_SHARE * contested and wins >= 2 * correct
        meant = math.isfinite(surplus) and surplus >= max(_LEAST_SHARE * contested, _LEAST_MEANT * wins)
        meant = meant and surplus >= _LEAST_SURPLUS * math.sqrt(0.25 * counts.num_targets)
        if matters and meant and clearly_beats(wins, correct, alpha=alpha):
            fits.append((matches, place))
    return max(fits)[1] if fits else None


def _from_labels(counts: TokenCounts) -> Finding | None:
    total, matches = counts.num_targets, counts.label_matches
    if len(matches) != len(_LABEL_OFFSETS) or not total:
        return None
    fitting = matches[2]
    if total - fitting <= max(_FEW, _OUT_OF_PLACE * total):
        return None
    start = f"{_series(counts)}: {total - fitting:,} of {total:,} labels are not the token at their place"
    evidence = {"labels": total, "label_matches": list(matches), "offset": None}
    offset = _named(matches, total)
    if offset is None:
        why = (
            "and no offset from -2 to +2 explains them: shuffled, or from another sample. Compare the codes and labels"
        )
        return _error("shifted_alignment", counts, f"{start}, {why} of one sample with its inputs.", evidence)
    fit = matches[_LABEL_OFFSETS.index(offset)]
    where = f"{fit:,} are the one at offset {offset:+d}: {_MEANING[offset]}. {_SHIFT_ONCE}."
    return _error("shifted_alignment", counts, f"{start}; {where}", evidence | {"offset": offset})


def _named(matches: tuple[int, ...], total: int) -> int | None:
    """Return the offset at which nearly all labels fit, if it clearly beats 0; the overlap is taken as the least."""
    fit, offset = max((fit, offset) for fit, offset in zip(matches, _LABEL_OFFSETS, strict=True) if offset != 0)
    both = max(0, fit + matches[2] - total)
    beats = clearly_beats(fit - both, matches[2] - both, alpha=_NAMING_ALPHA, least=1)
    return offset if beats and fit >= _NAMED * total else None


def _from_predictions(counts: TokenCounts) -> Finding | None:
    place = winner(counts)
    if place is None:
        return None
    message = (
        f"{_series(counts)}: {_contest(counts, place)}; {_MEANING[_PLACES[place]]}. "
        f"Compare the shift of labels and logits. {_SHIFT_ONCE}."
    )
    return _error("shifted_alignment", counts, message, _evidence(counts, place) | {"offset": _PLACES[place]})


def _copies(counts: TokenCounts) -> Finding | None:
    place = winner(counts)
    if place is None or _PLACES[place] != -1:
        return None
    return _copying(counts, _contest(counts, place), _evidence(counts, place))


def _contest(counts: TokenCounts, place: int) -> str:
    contested, correct = counts.offset_contested[place], counts.offset_correct[place]
    return (
        f"predictions equal {_NAMES[place]} in {counts.offset_matches[place]:,} of {contested:,} slots where it "
        f"differs from the label (label right in {correct:,})"
    )


def _evidence(counts: TokenCounts, place: int) -> dict[str, object]:
    return {
        "contested": counts.offset_contested[place],
        "matches": counts.offset_matches[place],
        "correct": counts.offset_correct[place],
        "surplus": counts.offset_surplus[place],
    }


def _copying(event: TokenCounts | PredictionSample, found: str, evidence: Mapping[str, object]) -> Finding:
    advice = "Usually logits and labels were compared at the same index, or the label is in the input"
    return _error("copies_input", event, f"{_series(event)}: {found}. {advice}. {_SHIFT_ONCE}.", evidence)


def _shown_labels(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find labels equal to their inputs in what the samples show, where a log has no counts."""
    counted = {series_of(counts) for counts in due.counts}
    for sample, shown in _shown(due, history):
        if series_of(sample) in counted or shown.slots < _LEAST_SHOWN:
            continue
        if shown.label_is_input >= 0.95 * shown.slots and _different_labels(due, sample) >= _VARIED_LABELS:
            found = f"{_series(sample)}: {shown.label_is_input:,} of {shown.slots:,} shown labels equal their input"
            evidence = {"slots": shown.slots, "label_is_input": shown.label_is_input, "offset": -1}
            yield _error("shifted_alignment", sample, f"{found}; {_MEANING[-1]}. {_SHIFT_ONCE}.", evidence)


def _shown_copies(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find copied inputs in what the samples show, unless the counts say that the model is not sure of them."""
    denied = {series_of(counts) for counts in due.counts if _only_expects_repetition(counts)}
    for sample, shown in _shown(due, history):
        contested = shown.slots - shown.label_is_input
        copied = contested >= _LEAST_SHOWN and shown.copied >= 0.9 * contested and shown.correct <= 0.1 * contested
        repeated = shown.label_is_input > 0.3 * shown.slots
        if copied and not repeated and clearly_beats(shown.copied, shown.correct) and series_of(sample) not in denied:
            found = (
                f"predictions equal the input in {shown.copied:,} of {contested:,} shown slots where it differs "
                f"from the label (label right in {shown.correct:,})"
            )
            evidence = {"contested": contested, "matches": shown.copied, "correct": shown.correct}
            yield _copying(sample, found, evidence)


def _only_expects_repetition(counts: TokenCounts) -> bool:
    """Tell whether predictions equal inputs in all slots too, at a probability no higher than labels do."""
    if min(len(counts.offset_surplus), len(counts.offset_contested), len(counts.offset_matches)) <= _INPUT:
        return False
    contested, matches = counts.offset_contested[_INPUT], counts.offset_matches[_INPUT]
    unsure = counts.offset_surplus[_INPUT] < max(_LEAST_SHARE * contested, _LEAST_MEANT * matches)
    return unsure and matches >= 2 * _LEAST_SHARE * contested


def _shown(due: LoggedStep, history: History) -> Iterator[tuple[PredictionSample, ShownSlots]]:
    """Yield a sample of each series of a training step, and all its slots that were shown so far."""
    if due.train is None:
        return
    first: dict[str, PredictionSample] = {}
    slots = dict(history.shown)
    for sample in due.samples:
        series = series_of(sample)
        first.setdefault(series, sample)
        slots[series] = slots.get(series, ShownSlots()).plus(sample)
    for series, sample in first.items():
        yield sample, slots[series]


def _different_labels(due: LoggedStep, like: PredictionSample) -> int:
    windows = [
        window
        for sample in due.samples
        if series_of(sample) == series_of(like)
        for window in (sample.first, sample.last)
    ]
    return len({label for window in windows for label in window.labels} - {IGNORE_INDEX})


def _series(event: TokenCounts | PredictionSample) -> str:
    return "text" if event.codebook is None else f"codebook {event.codebook}"


def _error(code: str, event: TokenCounts | PredictionSample, message: str, evidence: Mapping[str, object]) -> Finding:
    return Finding(
        code=code,
        severity="error",
        message=message,
        evidence=evidence,
        modality=event.modality,
        codebook=event.codebook,
    )


CHECKS: tuple[Check, ...] = (shifted_alignment, copies_input)
