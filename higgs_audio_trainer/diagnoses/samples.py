"""Samples that are there twice, too long, or without content."""

from __future__ import annotations

from collections.abc import Iterator

from higgs_audio_trainer.diagnoses.finding import Check, Finding
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.logged_step import LoggedStep

_NEARLY = 0.9  # of the model's positions
_MOST_PADDING = 0.75  # of the text slots of a step
_MOST_SHOWN = 8


def duplicate_samples(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find samples of different names and one fingerprint: in a step, among the samples shown, or seen before."""
    seen = [(id_, print_) for id_, print_ in (due.train.samples.items() if due.train else ())]
    seen += [(sample.sample_id, sample.fingerprint) for sample in due.samples]
    first, pairs = dict(history.fingerprints), []
    for id_, print_ in seen:
        pair = [first.setdefault(print_, id_), id_]
        if print_ and pair[0] != id_ and pair not in pairs:
            pairs.append(pair)
    if pairs:
        yield Finding(
            code="duplicate_samples",
            severity="warning",
            message=f"{_samples_have(len(pairs))} the tokens of another one, for example {pairs[0][1]!r} those of "
            f"{pairs[0][0]!r}. Usually a clip is in the manifest twice: it counts double, and an evaluation on it "
            "measures memory. Remove it",
            evidence={"pairs": pairs[:_MOST_SHOWN], "found": len(pairs)},
        )


def _samples_have(number: int) -> str:
    return "1 sample has" if number == 1 else f"{number:,} samples have"


def sample_too_long(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find sequences that are longer than the model was made for, or nearly so, and steps that are mostly padding."""
    length, most = due.train.sequence_length if due.train else None, history.run.max_length
    if length is not None and most is not None and length >= _NEARLY * most > 0:
        beyond = length > most
        advice = (
            "Positions beyond that were never trained. Cut the clip, or remove it"
            if beyond
            else "A longer one will not fit. Look at the longest clips of the manifest"
        )
        yield Finding(
            code="sample_too_long",
            severity="error" if beyond else "note",
            message=f"the longest sequence has {length:,} tokens and the model was made for {most:,}. {advice}",
            evidence={"sequence_length": length, "max_length": most},
        )
    for counts in due.counts if due.train else ():
        padding = counts.masked.get("padding", 0)
        slots = sum(counts.masked.values()) + sum(counts.supervised.values())
        if counts.modality == "text" and padding > _MOST_PADDING * slots:
            yield Finding(
                code="sample_too_long",
                severity="note",
                message=f"{padding / slots:.0%} of the {slots:,} text slots are padding: one sample is much longer "
                "than the others of its batch, and most of the computation is for nothing. Sort the manifest by "
                "length, or split the long clips",
                evidence={"padding": padding, "slots": slots},
                modality="text",
            )


def constant_sample(due: LoggedStep, history: History) -> Iterator[Finding]:
    """Find clips whose labels are one token over and over."""
    del history
    found = [counts for counts in due.counts if counts.codebook is not None and counts.constant_samples]
    audio = [counts for counts in due.counts if counts.codebook is not None]
    if due.train is None or not found or 2 * len(found) < len(audio):  # one codebook may well stand still
        return
    samples = list(dict.fromkeys(id_ for counts in found for id_ in counts.constant_samples))
    shown = samples[:_MOST_SHOWN]
    yield Finding(
        code="constant_sample",
        severity="warning",
        message=f"{len(samples)} {'clip is' if len(samples) == 1 else 'clips are'} one token over and over in "
        f"{len(found)} codebooks: {', '.join(map(repr, shown))}. Usually the clip is silence, or its encoding failed. "
        "Listen to it; remove it, or run prepare again",
        evidence={"samples": shown, "codebooks": [counts.codebook for counts in found]},
        modality="audio",
    )


CHECKS: tuple[Check, ...] = (duplicate_samples, sample_too_long, constant_sample)
