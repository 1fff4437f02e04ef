"""Checks of the stop tokens: are they among the labels, and does the model learn them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from higgs_audio_trainer.diagnoses.finding import Check, Finding, Severity
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History, MissedStops, series_of
from higgs_audio_trainer.events import Modality, PredictionSample, TokenCounts
from higgs_audio_trainer.logged_step import LoggedStep

#: How severe it is after so many times the steps that it took to learn the rest, and so many steps at least.
_PATIENCE: tuple[tuple[Severity, int, int], ...] = (("note", 3, 30), ("warning", 10, 300))
_UNLIKELY = 1e-4  # chance of missing every stop, for a model that gets stops right as often as the rest
_LEAST_PROBABILITY = 0.1
_BEST_RANK = 10


def no_stop_target(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find labels without a stop token: in the counts of a series or, where there are none, in its samples."""
    if due.train is None:
        return
    findings = [
        _no_stop(counts.modality, counts.codebook, counts.num_targets, counts.masked.get("stop", 0))
        for counts in due.counts
        if counts.num_targets and not counts.stop_targets and counts.modality in history.run.stops
    ]
    counted = {series_of(counts) for counts in due.counts}
    uncounted: dict[str, list[PredictionSample]] = {}
    for sample in due.samples:
        if series_of(sample) not in counted:
            uncounted.setdefault(series_of(sample), []).append(sample)
    for samples in uncounted.values():
        targets = sum(sample.num_targets for sample in samples)
        is_said = samples[0].modality in history.run.stops
        if targets and is_said and not any(sample.stop_targets for sample in samples):
            findings.append(_no_stop(samples[0].modality, samples[0].codebook, targets, 0))
    yield from per_codebook(findings, history.run.num_codebooks)


def _no_stop(modality: Modality, codebook: int | None, targets: int, masked: int) -> Finding:
    series, consequence = "text", "the text does not end"
    if codebook is not None:
        series, consequence = f"codebook {codebook}", "the voice never ends"
    hidden = f"; {masked:,} are masked, as by the stock processor" if masked else ""
    message = (
        f"{series}: none of {targets:,} labels is a stop token{hidden}. What is never a label is never learned: "
        f"{consequence}. Supervise one stop token at the end of each sequence."
    )
    return Finding(
        code="no_stop_target",
        severity="error",
        message=message,
        evidence={"targets": targets, "stop_targets": 0, "masked_stops": masked},
        modality=modality,
        codebook=codebook,
    )


def stop_never_predicted(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a series that has learned the rest and never says its stop token, so often that it is no accident.

    There is one stop in a clip, and it may well be learned last: it is a note after three times the steps that it took
    to learn the rest, and a warning after ten times as many.
    """
    findings = []
    for counts in due.counts:
        missed = history.missed.get(series_of(counts), MissedStops()).plus(counts)
        if missed.since is None or missed.surprise < -math.log(_UNLIKELY) or not _is_far_off(counts):
            continue
        for severity, times, least in _PATIENCE:
            if due.step >= max(times * missed.since, missed.since + least):
                findings.append(_never(counts, severity))
    yield from per_codebook(findings, history.run.num_codebooks)


def _is_far_off(counts: TokenCounts) -> bool:
    """Tell whether the stop token is far from being predicted: a runner-up is on its way."""
    rank, probability = counts.stop_rank, counts.stop_probability
    return rank is not None and rank > _BEST_RANK and probability is not None and probability < _LEAST_PROBABILITY


def _never(counts: TokenCounts, severity: Severity) -> Finding:
    series = "text" if counts.codebook is None else f"codebook {counts.codebook}"
    accuracy, probability = counts.num_correct / counts.num_targets, counts.stop_probability or 0.0
    known = counts.stop_rank is not None and math.isfinite(counts.stop_rank)
    rank = f"its mean rank at the true end is {counts.stop_rank:.1f} and " if known else ""
    message = (
        f"{series}: none of {counts.stop_targets:,} stop tokens is predicted, while {accuracy:.0%} of the labels are; "
        f"{rank}its probability there {probability:.1%}. Usually clips are cut before their end, or stops weigh too "
        "little. Listen to the ends of the clips, and train on."
    )
    return Finding(
        code="stop_never_predicted",
        severity=severity,
        message=message,
        evidence={
            "stop_targets": counts.stop_targets,
            "stop_rank": counts.stop_rank,
            "stop_probability": counts.stop_probability,
            "accuracy": accuracy,
        },
        modality=counts.modality,
        codebook=counts.codebook,
    )


CHECKS: tuple[Check, ...] = (no_stop_target, stop_never_predicted)
