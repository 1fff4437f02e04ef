"""Checks of generated speech: without end, silent, stuck on a frame, or too short.

A model that has not learned to speak babbles, and even a good voice may fail at a difficult sentence. So:

- A finding needs more than half of the probes, each with the same fault at two consecutive generations.
- The model must be one that should speak. A pretrained checkpoint spoke before the training, but may have to learn a
  language first. Random weights should speak only what they predict almost without error when they are fed the
  recording: a single wrong code may derail the speech.
- For an error, difficult sentences must not explain the number of probes, and the model must be able to speak: the
  voice spoke well earlier in the run, or the model has learned its targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import NamedTuple

from higgs_audio_trainer.diagnoses.finding import Check, Finding, Severity, make_finding
from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.diagnoses.speech_faults import is_as_recorded, is_short_for_its_text, verdicts
from higgs_audio_trainer.diagnoses.statistics import significantly_above
from higgs_audio_trainer.events import GenerationSample
from higgs_audio_trainer.logged_step import LoggedStep

_SETTLED_STEPS = 20  # optimizer steps of a pretrained checkpoint, as for the level of its loss
_LEARNED = 0.97  # mean accuracy; at 0.91 a healthy training still ends most speech far too early, at 0.98 none
_DIFFICULT = 0.05  # share of sentences at which a good voice may fail again and again; far more than usual
_MOST_NAMED = 3  # probes in a message
_MOST_SHOWN = 8  # probes in the evidence


class _Failing(NamedTuple):
    """Probes with the same fault at two consecutive generations.

    Attributes:
        probes: Their speech now.
        judged: Number of probes that could be judged at both.
        before: Step of the generation before.
        severity: Severity of the finding.
    """

    probes: Sequence[GenerationSample]
    judged: int
    before: int
    severity: Severity

    @property
    def named(self) -> str:
        """How many probes fail since when, and their first names."""
        names = ", ".join(repr(sample.probe) for sample in self.probes[:_MOST_NAMED])
        more = ", ..." if len(self.probes) > _MOST_NAMED else ""
        return f"{len(self.probes)} of {self.judged} probes, as at step {self.before} ({names}{more})"

    def finding(self, code: str, *sentences: str, **evidence: object) -> Finding:
        """Return the finding."""
        shown = [sample.probe for sample in self.probes[:_MOST_SHOWN]]
        facts = {"probes": shown, "failing": len(self.probes), "judged": self.judged, "before": self.before}
        return make_finding(code, self.severity, *sentences, about="audio", evidence=facts | evidence)

    def median(self, field: str) -> float:
        """Return the median of a figure that is known of all probes."""
        return float(median(getattr(sample, field) for sample in self.probes))


def never_stops(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find probes that the limit ended, long after the end of their recordings or of slow speech of their texts."""
    failing = _failing("never_stops", logged, history)
    if failing is None:
        return
    ends = [sample.frames_label for sample in failing.probes if sample.frames_label is not None]
    own = f"their recordings have {median(ends):.0f}" if ends else "slow speech of their texts needs fewer"
    yield failing.finding(
        "never_stops",
        f"the voice does not stop: {failing.named} reach the limit, {failing.median('frames'):.0f} frames, and {own}.",
        "Usually the stop tokens are masked or cut off, so that the model never learns to stop.",
        "See no_stop_target and stop_never_predicted, and listen to the ends of the clips.",
        frames=failing.median("frames"),
        frames_label=float(median(ends)) if ends else None,
    )


def silent_voice(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find probes whose decoded speech is inaudible."""
    failing = _failing("silent_voice", logged, history)
    if failing is None:
        return
    right = sum(map(is_as_recorded, failing.probes))
    cause = (
        "The codes are those of the recordings. Usually the codec's decoder has no weights, or the clips are silence."
        if 2 * right > len(failing.probes)
        else "Usually the codec is not the one of the base model, or the clips are mostly silence."
    )
    yield failing.finding(
        "silent_voice",
        f"the voice is silent: {failing.named} have {failing.median('silence_share'):.0%} silence.",
        cause,
        "Listen to the labels and predictions with --log_audio.",
        silence_share=failing.median("silence_share"),
        as_recorded=right,
    )


def stuck(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find probes whose speech repeats one frame."""
    failing = _failing("stuck", logged, history)
    if failing is None:
        return
    run, share = failing.median("longest_run"), failing.median("repeat_share")
    right = sum(map(is_as_recorded, failing.probes))
    cause, advice = (
        ("So do the recordings. Usually clips are padded with digital silence.", "Cut the silence from the clips.")
        if 2 * right > len(failing.probes)
        else (
            "Usually the labels are not shifted and the model learned to copy its input, or clips hold long silence.",
            "See shifted_alignment and copies_input, and listen to the clips.",
        )
    )
    yield failing.finding(
        "stuck",
        f"the voice is stuck: {failing.named} say one frame {run:.0f} times in a row, and {share:.0%} of their frames "
        "repeat the frame before.",
        cause,
        advice,
        longest_run=run,
        repeat_share=share,
        frames=failing.median("frames"),
        as_recorded=right,
    )


def too_short(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find probes that end by themselves, far before the end of their recordings or too early for their texts."""
    failing = _failing("too_short", logged, history)
    if failing is None:
        return
    lengths = [sample.frames_label for sample in failing.probes if sample.frames_label is not None]
    cut = sum(
        sample.frames_label is not None and is_short_for_its_text(sample.frames_label, sample.text)
        for sample in failing.probes
    )
    own = f"their recordings have {median(lengths):.0f}" if lengths else "their texts need more"
    cause, advice = (
        ("The recordings too are too short for their texts: usually the clips are cut.", "Check the clips' lengths.")
        if 2 * cut > len(failing.probes)
        else (
            "Usually the model learned to stop early, from labels or clips that end before their text does.",
            "Listen to the ends of the clips, and look at the stop tokens with --log_window.",
        )
    )
    yield failing.finding(
        "too_short",
        f"the voice stops too early: {failing.named} end after {failing.median('frames'):.0f} frames, and {own}.",
        cause,
        advice,
        frames=failing.median("frames"),
        frames_label=float(median(lengths)) if lengths else None,
        short_recordings=cut,
    )


def _failing(code: str, logged: LoggedStep, history: History) -> _Failing | None:
    """Return the probes with a fault at two generations in a row. None unless these are more than half."""
    past = [probes for probes in history.generations if probes and probes[0].step < logged.step]
    if not logged.generations or not past or not _should_speak(past[-1][0].step, logged.step, history):
        return None
    spoken = [s for s in logged.generations if s.frames_label is not None or not history.run.base_is_random]
    earlier = {sample.probe: verdicts(sample).get(code) for sample in past[-1]}
    judged = [
        (s, now) for s in spoken if (now := verdicts(s).get(code)) is not None and earlier.get(s.probe) is not None
    ]
    probes = [sample for sample, is_bad in judged if is_bad and earlier[sample.probe]]
    if 2 * len(probes) <= len(judged):
        return None
    is_certain = significantly_above(len(probes), len(judged), _DIFFICULT)
    is_error = is_certain and (_has_learned(logged.step, history) or _spoke_well(history, past))
    return _Failing(probes, len(judged), past[-1][0].step, "error" if is_error else "warning")


def _should_speak(before: int, now: int, history: History) -> bool:
    """Return True if free speech at these two steps is evidence.

    A checkpoint that does not declare random weights spoke before the training. It gets some steps to adapt.
    """
    return _has_learned(now, history) if history.run.base_is_random else before >= _SETTLED_STEPS


def _has_learned(step: int, history: History) -> bool:
    """Return True if the model predicted nearly all targets, of the last training step and of the last evaluation."""
    trained = [event for event in history.steps if event.step <= step][-1:]
    evaluated = [event for event in history.evaluations if event.step <= step][-1:]
    means = [
        fmean(known)
        for event in (*trained, *evaluated)
        if (known := [share for share in event.audio_accuracy_per_codebook if share is not None])
    ]
    return bool(trained) and bool(means) and min(means) >= _LEARNED


def _spoke_well(history: History, past: Sequence[Sequence[GenerationSample]]) -> bool:
    """Return True if more than half of the probes of an earlier generation had no fault. Random weights may do so."""
    if history.run.base_is_random:
        return False
    return any(2 * sum(map(_is_good, probes)) > len(probes) for probes in past)


def _is_good(sample: GenerationSample) -> bool:
    found = verdicts(sample)
    return "never_stops" in found and not any(found.values())


CHECKS: tuple[Check, ...] = (never_stops, silent_voice, stuck, too_short)
