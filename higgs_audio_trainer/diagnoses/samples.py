"""Checks of the samples: duplicates, excessive length, and clips without content."""

from __future__ import annotations

from collections.abc import Iterator

from higgs_audio_trainer.diagnoses.finding import Check, Finding, make_finding
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.logged_step import LoggedStep

_NEARLY = 0.9  # share of the model's positions
_MOST_PADDING = 0.75  # share of the text slots of a step
_MOST_SHOWN = 8


def duplicate_samples(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find samples with different ids and equal fingerprints, among this step's, the shown and the earlier samples."""
    seen = [(id_, print_) for id_, print_ in (logged.train.samples.items() if logged.train else ())]
    seen += [(sample.sample_id, sample.fingerprint) for sample in logged.samples]
    first, pairs = dict(history.fingerprints), []
    for id_, print_ in seen:
        pair = [first.setdefault(print_, id_), id_]
        if print_ and pair[0] != id_ and pair not in pairs:
            pairs.append(pair)
    if pairs:
        yield make_finding(
            "duplicate_samples",
            "warning",
            f"pairs of samples with the same tokens: {len(pairs):,}, for example {pairs[0][0]!r} and {pairs[0][1]!r}.",
            "Usually a clip is in the manifest twice: the clip counts double in training, and an evaluation on the "
            "clip measures memorization.",
            "Remove the duplicates.",
            evidence={"pairs": pairs[:_MOST_SHOWN], "found": len(pairs)},
        )


def sample_too_long(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find sequences near or beyond the model's number of positions, and steps that are mostly padding."""
    length, most = logged.train.sequence_length if logged.train else None, history.run.max_length
    if length is not None and most is not None and length >= _NEARLY * most > 0:
        beyond = length > most
        yield make_finding(
            "sample_too_long",
            "error" if beyond else "note",
            f"the longest sequence has {length:,} tokens, and the model was made for {most:,}.",
            "Positions beyond that number were never trained. Cut or remove the clip."
            if beyond
            else "A longer sequence will not fit. Check the longest clips of the manifest.",
            evidence={"sequence_length": length, "max_length": most},
        )
    for counts in logged.counts if logged.train else ():
        padding = counts.masked.get("padding", 0)
        slots = sum(counts.masked.values()) + sum(counts.supervised.values())
        if counts.modality == "text" and padding > _MOST_PADDING * slots:
            yield make_finding(
                "sample_too_long",
                "note",
                f"{padding / slots:.0%} of the {slots:,} text slots are padding.",
                "Usually one sample is much longer than the others of its batch, and most of the computation is waste.",
                "Use --max_batch_seconds or --train_sampling_strategy group_by_length, or split the long clips.",
                about="text",
                evidence={"padding": padding, "slots": slots},
            )


def constant_sample(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find clips whose labels repeat a single token."""
    del history
    found = [counts for counts in logged.counts if counts.codebook is not None and counts.constant_samples]
    audio = [counts for counts in logged.counts if counts.codebook is not None]
    if logged.train is None or not found or 2 * len(found) < len(audio):  # a single codebook may well stay constant
        return
    samples = list(dict.fromkeys(id_ for counts in found for id_ in counts.constant_samples))
    shown = samples[:_MOST_SHOWN]
    yield make_finding(
        "constant_sample",
        "warning",
        f"clips whose labels repeat a single token: {len(samples)}, in {len(found)} codebooks: "
        f"{', '.join(map(repr, shown))}.",
        "Usually the clip is silence, or the encoding failed.",
        "Listen to the clip, then remove the clip or run prepare again.",
        about="audio",
        evidence={"samples": shown, "codebooks": [counts.codebook for counts in found]},
    )


CHECKS: tuple[Check, ...] = (duplicate_samples, sample_too_long, constant_sample)
