"""Which slots are supervised, which are masked, and what the loss is divided by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from higgs_audio_trainer.diagnoses.finding import Check, Finding
from higgs_audio_trainer.diagnoses.grouping import per_codebook
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import Modality, PredictionSample, TokenCounts
from higgs_audio_trainer.logged_step import LoggedStep

_TO_LEARN: Mapping[Modality, tuple[str, ...]] = {"text": ("response",), "audio": ("codes", "stop")}
_NAMES = {"reference_audio": "reference audio", "stream_bos": "stream BOS", "delay_prefix": "delay prefix"}
_NAMES |= {"eos_fill": "EOS fill"}
_LAST = ("delay_prefix", "eos_fill", "padding")  # in the audit, in this order, after the other reasons
_LEAST_SHARE = 0.01  # of the slots that are to be learned; fewer may be masked on purpose
_DIVISOR_ERROR = 0.01  # a divisor is computed back from a float32 loss, which is far more exact
_DELAY_SHARE = 0.5  # of the expected delay prefix; clips that were cut have a little less
_MOST_SHOWN = 8
_IN_PLACE = 2  # of `TokenCounts.label_matches`: offset 0


def masked_out(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a modality, a codebook or a sample without a target, and slots that are masked though they are learned.

    Slots of the stop token are the matter of `no_stop_target`.
    """
    if due.train is None:
        return
    # Where samples differ in what they hold, a step may lack one by chance; what was there before is no fault.
    text, audio = ("text" in history.run.modalities, "audio" in history.run.modalities)
    if text and due.train.text_targets == 0 and not any(step.text_targets for step in history.steps):
        yield Finding(
            code="masked_out",
            severity="warning",
            message="text has no target: its loss is 0 and the text is not trained. Usually every text label is "
            "masked. Check the assistant turns and start_index of the manifest",
            evidence={"targets": 0},
            modality="text",
        )
    if audio and due.train.audio_targets == 0 and not any(step.audio_targets for step in history.steps):
        yield Finding(
            code="masked_out",
            severity="error",
            message="audio has no target: its loss is 0 and the voice is not trained. Usually no assistant turn at or "
            "after start_index holds audio. Check the manifest",
            evidence={"targets": 0},
            modality="audio",
        )
    found = [finding for counts in due.counts for finding in _masked_of(counts, due.counts)]
    yield from per_codebook(found, history.run.num_codebooks)
    if due.train.text_targets or due.train.audio_targets:
        yield from _samples_without_targets(due.samples)


def _masked_of(counts: TokenCounts, all_counts: Sequence[TokenCounts]) -> Iterator[Finding]:
    if counts.num_targets == 0:
        trained = [other.codebook for other in all_counts if other.modality == "audio" and other.num_targets]
        if counts.modality == "audio" and trained:
            yield Finding(
                code="masked_out",
                severity="error",
                message=f"{_series(counts)} has no target, while {len(trained)} other codebooks have some: it is not "
                "trained, and its sound is lost. Usually all its labels are masked. Check the delay pattern and the "
                "labels",
                evidence={"targets": 0, "trained_codebooks": trained},
                modality="audio",
                codebook=counts.codebook,
            )
        return
    if _are_another_slots(counts):
        return
    place = _TO_LEARN[counts.modality][0]
    masked, supervised = counts.masked.get(place, 0), counts.supervised.get(place, 0)
    if masked and masked >= _LEAST_SHARE * (masked + supervised):
        yield Finding(
            code="masked_out",
            severity="warning",
            message=f"{_series(counts)}: {masked:,} of {masked + supervised:,} slots that are to be learned are "
            "masked. Usually the labels were cut, or start_index is too late. Check the labels of the first samples",
            evidence={"masked": masked, "to_learn": masked + supervised},
            modality=counts.modality,
            codebook=counts.codebook,
        )


def _samples_without_targets(samples: Sequence[PredictionSample]) -> Iterator[Finding]:
    targets: Counter[str] = Counter()
    for sample in samples:
        targets[sample.sample_id] += sample.num_targets
    without = [sample for sample, number in targets.items() if number == 0][:_MOST_SHOWN]
    if without:
        yield Finding(
            code="masked_out",
            severity="warning",
            message=f"{len(without)} of {len(targets)} shown samples have no target: nothing is learned from them. "
            f"Usually start_index is beyond their last assistant turn. Check {', '.join(map(repr, without))}",
            evidence={"samples": without},
        )


def prompt_supervised(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find targets in places that are to be masked: the prompt, reference audio, placeholders, padding, the delay."""
    if due.train is not None:
        yield from per_codebook((f for counts in due.counts for f in _wrong_places(counts)), history.run.num_codebooks)


def _wrong_places(counts: TokenCounts) -> Iterator[Finding]:
    places = {
        name: number for name, number in counts.supervised.items() if number and name not in _TO_LEARN[counts.modality]
    }
    if not places or _are_another_slots(counts):
        return
    yield Finding(
        code="prompt_supervised",
        severity="error",
        message=f"{_series(counts)}: {sum(places.values()):,} of {counts.num_targets:,} targets are in slots that are "
        f"to be masked: {_listed(places)}. The model learns to say what it is given. Usually the labels are a copy of "
        "the inputs. Mask all but the answer",
        evidence={"places": places, "targets": counts.num_targets},
        modality=counts.modality,
        codebook=counts.codebook,
    )


def wrong_denominator(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find a loss that was divided by another number than that of its targets."""
    if due.train is not None:
        found = (finding for counts in due.counts for finding in _divided_wrongly(counts, due))
        yield from per_codebook(found, history.run.num_codebooks)


def _divided_wrongly(counts: TokenCounts, due: LoggedStep) -> Iterator[Finding]:
    divisor, targets = counts.divisor, counts.num_targets
    if divisor is None or not math.isfinite(divisor) or divisor <= 0 or targets == 0 or _same(divisor, targets):
        return
    owner = next((name for name, number in _numbers(counts, due).items() if number and _same(divisor, number)), None)
    yield Finding(
        code="wrong_denominator",
        severity="error",
        message=f"{_series(counts)} was divided by {divisor:,.6g}{f', the number of {owner},' if owner else ''} and "
        f"has {targets:,} targets: its loss and its gradient are {targets / divisor:.3g} times what they are to be. "
        "Usually the count of another modality is used. Divide by its own targets",
        evidence={"divisor": divisor, "targets": targets, "number_of": owner},
        modality=counts.modality,
        codebook=counts.codebook,
    )


def _numbers(counts: TokenCounts, due: LoggedStep) -> dict[str, int]:
    """Name what the divisor may be instead, the most usual first."""
    assert due.train is not None
    text, audio = due.train.text_targets, due.train.audio_targets
    return {
        "text targets": text,
        "audio targets of all codebooks together": audio,
        "text and audio targets together": text + audio,
        "all its slots": sum(counts.masked.values()) + sum(counts.supervised.values()),
        "samples": len(due.train.samples),
    }


def delay_missing(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find codebooks that are not delayed: codebook k begins with k slots of delay prefix in each clip.

    The clips with a target are counted by the stream BOS of codebook 0.
    """
    del history
    audio = {counts.codebook: counts for counts in due.counts if counts.codebook is not None and counts.num_targets}
    clips = _in_place(audio[0], "stream_bos") if 0 in audio else 0
    if due.train is None or not clips:
        return
    found = {k: _in_place(counts, "delay_prefix") for k, counts in sorted(audio.items()) if k}
    missing = {k: number for k, number in found.items() if number < _DELAY_SHARE * k * clips}
    if missing:
        k = max(missing)
        yield Finding(
            code="delay_missing",
            severity="error",
            message=f"{len(missing)} of {len(found)} codebooks are not delayed by as many frames as their number: "
            f"codebook {k} has {missing[k]:,} slots of delay prefix in {clips:,} clips, and is to have {k * clips:,}. "
            "Usually the delay pattern was not applied. The base model needs it: apply it to the codes and the labels",
            evidence={"codebooks": list(missing), "found": list(missing.values()), "clips": clips},
            modality="audio",
        )


def mask_audit(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Note at step 1 how many slots are supervised and masked, for what reason, and how the first sample looks."""
    del history
    if due.train is None or due.step != 1:
        return
    text = [counts for counts in due.counts if counts.modality == "text"]
    audio = [counts for counts in due.counts if counts.modality == "audio"]
    drawn = "audio" if audio else "text"
    groups: dict[Modality, list[TokenCounts]] = {"text": text, "audio": audio}
    for modality, group in groups.items():
        if any(counts.masked or counts.supervised for counts in group):  # of a foreign training no places are known
            yield _audited(modality, group, _first_sample(due) if modality == drawn else {})


def _audited(modality: Modality, group: Sequence[TokenCounts], sample: Mapping[str, object]) -> Finding:
    supervised, masked = _summed([c.supervised for c in group]), _summed([c.masked for c in group])
    total = sum(supervised.values()) + sum(masked.values())
    slots = "text slots are" if modality == "text" else f"slots of {len(group)} codebooks are"
    reasons = f"; masked: {_listed(masked)}" if masked else ""
    return Finding(
        code="mask_audit",
        severity="note",
        message=f"{sum(supervised.values()):,} of {total:,} {slots} supervised{reasons}",
        evidence={"supervised": supervised, "masked": masked, **sample},
        modality=modality,
    )


def _first_sample(due: LoggedStep) -> dict[str, object]:
    drawn = sorted((c for c in due.counts if c.strip), key=lambda c: -1 if c.codebook is None else c.codebook)
    strips = {"text" if c.codebook is None else f"codebook {c.codebook}": c.strip for c in drawn}
    name: dict[str, object] = {"sample": due.samples[0].sample_id} if due.samples else {}
    return {**name, "strip": strips} if strips else name


def _are_another_slots(counts: TokenCounts) -> bool:
    """Tell whether most labels are another slot's: where they lie means nothing, and `shifted_alignment` says so."""
    return 2 * sum(counts.label_matches[_IN_PLACE : _IN_PLACE + 1]) < counts.num_targets


def _series(counts: TokenCounts) -> str:
    return "text" if counts.codebook is None else f"audio codebook {counts.codebook}"


def _same(divisor: float, number: float) -> bool:
    return abs(divisor - number) <= _DIVISOR_ERROR * number


def _in_place(counts: TokenCounts, place: str) -> int:
    return counts.masked.get(place, 0) + counts.supervised.get(place, 0)


def _summed(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    ordered = sorted(total, key=lambda name: _LAST.index(name) if name in _LAST else -1)
    return {name: total[name] for name in ordered if total[name]}


def _listed(places: Mapping[str, int]) -> str:
    return ", ".join(f"{_NAMES.get(name, name)} {number:,}" for name, number in places.items())


CHECKS: tuple[Check, ...] = (masked_out, prompt_supervised, wrong_denominator, delay_missing, mask_audit)
