"""Checks of the masks: supervised slots, masked slots, and the divisor of the loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from higgs_audio_trainer.diagnoses.finding import Check, Finding, make_finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import Modality, PredictionSample, TokenCounts, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep

_TARGETS: Mapping[Modality, tuple[str, ...]] = {"text": ("response",), "audio": ("codes", "stop")}
_NAMES = {"reference_audio": "reference audio", "stream_bos": "stream BOS", "delay_prefix": "delay prefix"}
_NAMES |= {"eos_fill": "EOS fill"}
_LAST = ("delay_prefix", "eos_fill", "padding")  # last in the audit, in this order
_LEAST_SHARE = 0.01  # share of the answer's slots; fewer may be masked on purpose
_DIVISOR_ERROR = 0.01  # the divisor is computed from a float32 loss, which is far more exact
_DELAY_SHARE = 0.5  # share of the expected delay prefix; cut clips have a little less
_MOST_SHOWN = 8
_OFFSET_0 = 2  # index into `TokenCounts.label_matches`


def masked_out(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a modality, a codebook or a sample without training targets, and masked slots of the answer.

    Masked stop tokens are left to `no_stop_target`.
    """
    train = logged.train
    if train is None:
        return
    # Where samples differ in content, a step may lack a modality by chance. So a modality with earlier targets passes.
    text, audio = ("text" in history.run.modalities, "audio" in history.run.modalities)
    if text and train.text_targets == 0 and not any(step.text_targets for step in history.steps):
        yield make_finding(
            "masked_out",
            "warning",
            "text has no training target: the text loss is 0 and the text is not trained.",
            "Usually every text label is masked.",
            "Check the assistant turns and start_index of the manifest.",
            about="text",
            evidence={"targets": 0},
        )
    if audio and train.audio_targets == 0 and not any(step.audio_targets for step in history.steps):
        yield make_finding(
            "masked_out",
            "error",
            "audio has no training target: the audio loss is 0 and the voice is not trained.",
            "Usually no assistant turn at or after start_index holds audio.",
            "Check the manifest.",
            about="audio",
            evidence={"targets": 0},
        )
    found = [finding for counts in logged.counts for finding in _masked_of(counts, logged.counts)]
    yield from per_codebook(found, history.run.num_codebooks)
    if train.text_targets or train.audio_targets:
        yield from _samples_without_targets(logged.samples)


def _masked_of(counts: TokenCounts, all_counts: Sequence[TokenCounts]) -> Iterator[Finding]:
    if counts.num_targets == 0:
        trained = [other.codebook for other in all_counts if other.modality == "audio" and other.num_targets]
        if counts.modality == "audio" and trained:
            yield make_finding(
                "masked_out",
                "error",
                f"the codebook has no training target, while {len(trained)} other codebooks have targets. The codebook "
                "is not trained, and its part of the sound is lost.",
                "Usually all labels of the codebook are masked.",
                "Check the delay pattern and the labels.",
                about=counts,
                evidence={"targets": 0, "trained_codebooks": trained},
            )
        return
    if _are_shifted(counts):
        return
    place = _TARGETS[counts.modality][0]
    masked, supervised = counts.masked.get(place, 0), counts.supervised.get(place, 0)
    if masked and masked >= _LEAST_SHARE * (masked + supervised):
        yield make_finding(
            "masked_out",
            "warning",
            f"{masked:,} of {masked + supervised:,} slots of the answer are masked.",
            "Usually the labels were cut, or start_index is too late.",
            "Check the labels of the first samples.",
            about=counts,
            evidence={"masked": masked, "to_learn": masked + supervised},
        )


def _samples_without_targets(samples: Sequence[PredictionSample]) -> Iterator[Finding]:
    targets: Counter[str] = Counter()
    for sample in samples:
        targets[sample.sample_id] += sample.num_targets
    without = [sample for sample, number in targets.items() if number == 0][:_MOST_SHOWN]
    if without:
        yield make_finding(
            "masked_out",
            "warning",
            f"{len(without)} of {len(targets)} shown samples have no training target: the model learns nothing from "
            "these samples.",
            "Usually start_index lies after the last assistant turn.",
            f"Check {', '.join(map(repr, without))}.",
            evidence={"samples": without},
        )


def prompt_supervised(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find training targets in the prompt, reference audio, placeholders, padding or the delay pattern."""
    if logged.train is not None:
        found = (finding for counts in logged.counts for finding in _misplaced_targets(counts))
        yield from per_codebook(found, history.run.num_codebooks)


def _misplaced_targets(counts: TokenCounts) -> Iterator[Finding]:
    places = {
        name: number for name, number in counts.supervised.items() if number and name not in _TARGETS[counts.modality]
    }
    if not places or _are_shifted(counts):
        return
    yield make_finding(
        "prompt_supervised",
        "error",
        f"{sum(places.values()):,} of {counts.num_targets:,} training targets are in slots that must be masked: "
        f"{_listed(places)}. The model learns to repeat its input.",
        "Usually the labels are a copy of the inputs.",
        "Mask all slots outside of the answer.",
        about=counts,
        evidence={"places": places, "targets": counts.num_targets},
    )


def wrong_denominator(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a loss divided by another number than the number of its targets."""
    if logged.train is not None:
        found = (finding for counts in logged.counts for finding in _divided_wrongly(counts, logged.train))
        yield from per_codebook(found, history.run.num_codebooks)


def _divided_wrongly(counts: TokenCounts, train: TrainStep) -> Iterator[Finding]:
    divisor, targets = counts.divisor, counts.num_targets
    if divisor is None or not math.isfinite(divisor) or divisor <= 0 or targets == 0 or _same(divisor, targets):
        return
    numbers = {  # the most frequent mistakes first
        "text targets": train.text_targets,
        "audio targets of all codebooks together": train.audio_targets,
        "text and audio targets together": train.text_targets + train.audio_targets,
        "all its slots": sum(counts.masked.values()) + sum(counts.supervised.values()),
        "samples": len(train.samples),
    }
    owner = next((name for name, number in numbers.items() if number and _same(divisor, number)), None)
    yield make_finding(
        "wrong_denominator",
        "error",
        f"the loss was divided by {divisor:,.6g}{f' (the number of {owner})' if owner else ''} instead of its "
        f"{targets:,} targets: loss and gradient are {targets / divisor:.3g} times the correct value.",
        "Usually the number of targets of another modality is used.",
        "Divide each loss by the number of its own targets.",
        about=counts,
        evidence={"divisor": divisor, "targets": targets, "number_of": owner},
    )


def delay_missing(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find codebooks without delay. Codebook k must begin with k slots of delay prefix in each clip.

    The stop tokens of codebook 0 give the number of clips with targets.
    """
    del history
    audio = {counts.codebook: counts for counts in logged.counts if counts.codebook is not None and counts.num_targets}
    clips = _number_of(audio[0], "stop") if 0 in audio else 0
    if logged.train is None or not clips:
        return
    found = {k: _number_of(counts, "delay_prefix") for k, counts in sorted(audio.items()) if k}
    missing = {k: number for k, number in found.items() if number < _DELAY_SHARE * k * clips}
    if missing:
        k = max(missing)
        yield make_finding(
            "delay_missing",
            "error",
            f"{len(missing)} of {len(found)} codebooks are not delayed, where codebook k must start k frames late: "
            f"codebook {k} has {missing[k]:,} slots of delay prefix in {clips:,} clips instead of {k * clips:,}.",
            "Usually the delay pattern was not applied, which the base model needs.",
            "Apply the pattern to the codes and the labels.",
            about="audio",
            evidence={"codebooks": list(missing), "found": list(missing.values()), "clips": clips},
        )


def mask_audit(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Note at step 1 the numbers of supervised and masked slots with their reasons, and a map of the first sample."""
    del history
    if logged.train is None or logged.step != 1:
        return
    text = [counts for counts in logged.counts if counts.modality == "text"]
    audio = [counts for counts in logged.counts if counts.modality == "audio"]
    drawn = "audio" if audio else "text"
    groups: dict[Modality, list[TokenCounts]] = {"text": text, "audio": audio}
    for modality, group in groups.items():
        if any(counts.masked or counts.supervised for counts in group):  # other trainers' batches have no known places
            yield _audited(modality, group, _mask_maps(logged) if modality == drawn else {})


def _audited(modality: Modality, group: Sequence[TokenCounts], maps: Mapping[str, object]) -> Finding:
    supervised, masked = _summed([c.supervised for c in group]), _summed([c.masked for c in group])
    total = sum(supervised.values()) + sum(masked.values())
    slots = "text slots are" if modality == "text" else f"slots of {len(group)} codebooks are"
    reasons = f"; masked: {_listed(masked)}" if masked else ""
    return make_finding(
        "mask_audit",
        "note",
        f"{sum(supervised.values()):,} of {total:,} {slots} supervised{reasons}",
        about=modality,
        evidence={"supervised": supervised, "masked": masked, **maps},
    )


def _mask_maps(logged: LoggedStep) -> dict[str, object]:
    """Return the id and the mask maps of the first sample, as evidence."""
    drawn = sorted((c for c in logged.counts if c.strip), key=lambda c: -1 if c.codebook is None else c.codebook)
    maps = {"text" if c.codebook is None else f"codebook {c.codebook}": c.strip for c in drawn}
    name: dict[str, object] = {"sample": logged.samples[0].sample_id} if logged.samples else {}
    return {**name, "strip": maps} if maps else name


def _are_shifted(counts: TokenCounts) -> bool:
    """Return True if most labels belong to other slots. Their places mean nothing, and `shifted_alignment` reports."""
    return 2 * sum(counts.label_matches[_OFFSET_0 : _OFFSET_0 + 1]) < counts.num_targets


def _same(divisor: float, number: float) -> bool:
    return abs(divisor - number) <= _DIVISOR_ERROR * number


def _number_of(counts: TokenCounts, place: str) -> int:
    return counts.masked.get(place, 0) + counts.supervised.get(place, 0)


def _summed(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of the numbers by place, without zeros.

    Example:
        >>> _summed([{"padding": 3, "prompt": 1}, {"prompt": 4, "codes": 0}])
        {'prompt': 5, 'padding': 3}
    """
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    ordered = sorted(total, key=lambda name: _LAST.index(name) if name in _LAST else -1)
    return {name: total[name] for name in ordered if total[name]}


def _listed(places: Mapping[str, int]) -> str:
    """Return places with their numbers as text.

    Example:
        >>> _listed({"prompt": 1200, "eos_fill": 4})
        'prompt 1,200, EOS fill 4'
    """
    return ", ".join(f"{_NAMES.get(name, name)} {number:,}" for name, number in places.items())


CHECKS: tuple[Check, ...] = (masked_out, prompt_supervised, wrong_denominator, delay_missing, mask_audit)
