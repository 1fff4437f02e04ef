"""Checks of the stop tokens: presence among the labels, and whether the model learns to predict them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from higgs_audio_trainer.diagnoses.finding import Check, Finding, Severity, make_finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History, MissedStops, series_of
from higgs_audio_trainer.events import PredictionSample, TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

#: Severity after this multiple of the steps to learn the other tokens, and at least this number of further steps.
_PATIENCE: tuple[tuple[Severity, int, int], ...] = (("note", 3, 30), ("warning", 10, 300))
_UNLIKELY = 1e-4  # chance of missing every stop token for a model that predicts stop tokens as well as the others
_LEAST_PROBABILITY = 0.1
_BEST_RANK = 10


def no_stop_target(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find text or codebooks without a stop token among the labels, from the counts or else from the samples."""
    if logged.train is None:
        return
    findings = [
        _no_stop(counts, counts.num_targets, counts.masked.get("stop", 0))
        for counts in logged.counts
        if counts.num_targets
        and not counts.stop_targets
        and counts.modality in history.run.stops
        and not _are_pieces_of_a_stream(logged.train, counts, history)
    ]
    counted = {series_of(counts) for counts in logged.counts}
    uncounted: dict[str, list[PredictionSample]] = {}
    for sample in logged.samples:
        if series_of(sample) not in counted:
            uncounted.setdefault(series_of(sample), []).append(sample)
    for samples in uncounted.values():
        targets = sum(sample.num_targets for sample in samples)
        has_stop = any(sample.stop_targets for sample in samples)
        if targets and samples[0].modality in history.run.stops and not has_stop:
            findings.append(_no_stop(samples[0], targets, 0))
    yield from per_codebook(findings, history.run.num_codebooks)


def _are_pieces_of_a_stream(train: TrainStep, counts: TokenCounts, history: History) -> bool:
    """Return True for text in pieces of one length, in which all tokens are targets, as in pretraining.

    Such a piece ends anywhere, and most pieces hold no stop token. In other data, lengths differ or prompts are masked.
    """
    if counts.modality != "text" or counts.supervised or counts.masked:
        return False  # data of our own trainer
    steps = [*history.steps, train]
    lengths = {step.sequence_length or 0 for step in steps}
    return len(lengths) == 1 and all(
        step.text_targets >= len(step.samples) * ((step.sequence_length or 0) - 1) > 0 for step in steps
    )


def _no_stop(about: TokenCounts | PredictionSample, targets: int, masked: int) -> Finding:
    consequence = "the text does not end" if about.codebook is None else "the voice never ends"
    return make_finding(
        "no_stop_target",
        "error",
        f"none of {targets:,} labels is a stop token, so the model cannot learn to stop: {consequence}.",
        f"{masked:,} stop tokens are masked, as in the labels of the stock processor."
        if masked
        else "Usually the labels were cut before the stop token.",
        "Supervise one stop token at the end of each sequence.",
        about=about,
        evidence={"targets": targets, "stop_targets": 0, "masked_stops": masked},
    )


def stop_never_predicted(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find text or codebooks where the model predicts other tokens well and no stop token, too often for chance.

    A clip has a single stop token, so the model may learn to stop late. The finding is a note after three times the
    steps to learn the other tokens, and a warning after ten times as many.
    """
    findings = []
    for counts in logged.counts:
        missed = history.missed.get(series_of(counts), MissedStops()).plus(counts)
        if missed.since is None or missed.surprise < -math.log(_UNLIKELY) or not _is_far_off(counts):
            continue
        for severity, times, least in _PATIENCE:
            if logged.step >= max(times * missed.since, missed.since + least):
                findings.append(_never(counts, severity))
    yield from per_codebook(findings, history.run.num_codebooks)


def _is_far_off(counts: TokenCounts) -> bool:
    """Return True if the stop token is below rank 10 and improbable. A better rank shows that learning continues."""
    rank, probability = counts.stop_rank, counts.stop_probability
    return rank is not None and rank > _BEST_RANK and probability is not None and probability < _LEAST_PROBABILITY


def _never(counts: TokenCounts, severity: Severity) -> Finding:
    accuracy, probability = counts.num_correct / counts.num_targets, counts.stop_probability or 0.0
    known = counts.stop_rank is not None and math.isfinite(counts.stop_rank)
    rank = f"a mean rank of {counts.stop_rank:.1f} and " if known else ""
    return make_finding(
        "stop_never_predicted",
        severity,
        f"none of {counts.stop_targets:,} stop tokens is predicted, while {accuracy:.0%} of all labels are.",
        f"At the true end the stop token has {rank}a probability of {probability:.1%}.",
        "Usually clips are cut before their end, or the stop tokens have too little weight in the loss.",
        "Listen to the ends of the clips, and train longer.",
        about=counts,
        evidence={
            "stop_targets": counts.stop_targets,
            "stop_rank": counts.stop_rank,
            "stop_probability": counts.stop_probability,
            "accuracy": accuracy,
        },
    )


CHECKS: tuple[Check, ...] = (no_stop_target, stop_never_predicted)
