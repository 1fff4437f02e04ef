"""Kinds of findings, with code, severity and message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from higgs_audio_trainer.events import DatasetFinding, FoundSample, Severity, Split

MOST_SAMPLES = 10
_LONGEST_DETAIL = 120


class FindingKind(NamedTuple):
    """Severity and message of a finding.

    Attributes:
        severity: Severity. An error stops a training with `--strict_data`.
        message: Observation, consequence and remedy.
    """

    severity: Severity
    message: str


#: Kinds of findings by code, in the order of the report: errors, warnings, notes.
KINDS: Mapping[str, FindingKind] = {
    "leak": FindingKind(
        "error",
        "the same recording is in training and in evaluation, so that the evaluation rewards memory. Remove the "
        "recording from one of the two manifests",
    ),
    "reference_leak": FindingKind(
        "error",
        "a reference recording of the training is evaluation audio, so that the model has heard what it is evaluated "
        "on. Choose another reference",
    ),
    "two_transcripts": FindingKind(
        "error",
        "the same recording has another text in another sample. At most one of the texts is true. Correct the text or "
        "remove the sample",
    ),
    "same_id": FindingKind(
        "error",
        "the id of the sample is that of another sample, so that logs and reports cannot tell the two apart. Give "
        "each sample an id of its own",
    ),
    "left_out": FindingKind(
        "warning",
        "the sample has a problem and is left out. Correct the problem, or remove the line",
    ),
    "silent": FindingKind(
        "warning",
        "the recording is silent, which teaches the model silence. Remove the sample or record it again",
    ),
    "shorter": FindingKind(
        "warning",
        "the file is shorter than its header says, and may have been cut off before the end of the text. Copy or "
        "encode the file again",
    ),
    "clipped": FindingKind(
        "warning",
        "the recording is clipped. Its waveform has flat tops, which the model learns as distortion. Record with a "
        "lower level, or remove the sample",
    ),
    "offset": FindingKind(
        "warning",
        "the waveform is not centred around zero (DC offset). Apply a high-pass filter at 20 Hz",
    ),
    "cancelling_channels": FindingKind(
        "warning",
        "the channels cancel each other out when mixed to one, so that the loudest channel alone is used. Swap the "
        "polarity of one channel",
    ),
    "low_rate": FindingKind(
        "warning",
        "the sampling rate is below 16 kHz. The recording has no sound above half of the rate, and the voice sounds "
        "like a telephone. Use recordings of 24 kHz where possible",
    ),
    "leading_silence": FindingKind(
        "warning",
        "more than 1 s of silence precedes the speech, and the model learns to wait. Trim the recording",
    ),
    "trailing_silence": FindingKind(
        "warning",
        "more than 1 s of silence follows the speech, and the model learns to stop late. Trim the recording",
    ),
    "own_reference": FindingKind(
        "warning",
        "the reference of the sample is the very recording to speak, so that the model learns to copy. Choose another "
        "recording of the speaker",
    ),
    "speaking_rate": FindingKind(
        "warning",
        "the text is far too long or too short for the recording, compared with the rest of the data. Listen whether "
        "text and recording belong together",
    ),
    "empty_text": FindingKind("warning", "the text has no letter and no digit to speak. Correct or remove the text"),
    "soundless_characters": FindingKind(
        "warning",
        "the text has control, zero-width or undecodable characters, which nobody hears and the model must read. "
        "Remove the characters",
    ),
    "double_spaces": FindingKind(
        "warning", "the text has several spaces in a row, other tokens than one space. Make it one space"
    ),
    "mixed_scripts": FindingKind(
        "warning",
        "a word mixes letters that look alike from two scripts, such as a Cyrillic letter in a Latin word. The model "
        "reads another word. Write the word in one script",
    ),
    "unknown_control_token": FindingKind(
        "warning",
        "the text has a control token that the tokenizer of the base model does not know, so that the model reads its "
        "letters. Write the control token as the base model has it, or remove it",
    ),
    "byte_tokens": FindingKind(
        "note",
        "the tokenizer splits characters of the text into bytes, so that the sequence is long and the base model has "
        "hardly seen such text. Write the text in common characters, or train longer",
    ),
    "one_character": FindingKind("note", "the text is a single letter or digit"),
    "beyond_full_scale": FindingKind(
        "note",
        "the waveform goes beyond -1 and 1. The codec receives the waveform as it is, neither scaled nor clipped, and "
        "was trained within -1 and 1. Scale the recording if the peak is high",
    ),
    "same_text": FindingKind(
        "note", "the same text is in training and in evaluation, so that the evaluation is no test of new texts"
    ),
}


class FoundFaults:
    """Faults found so far, with the first samples of each kind."""

    def __init__(self) -> None:
        self._by_split: dict[str, Counter[str]] = {}
        self._samples: dict[str, list[FoundSample]] = {}

    def add(self, code: str, split: Split, where: str, sample_id: str, detail: str = "") -> None:
        """Add a sample with a fault."""
        self.count(code, split)
        samples = self._samples.setdefault(code, [])
        if len(samples) < MOST_SAMPLES:
            samples.append(FoundSample(where=where, id=sample_id, detail=detail[:_LONGEST_DETAIL]))

    def count(self, code: str, split: Split, number: int = 1) -> None:
        """Count samples with a fault without naming the samples."""
        self._by_split.setdefault(code, Counter())[split] += number

    def findings(self) -> tuple[DatasetFinding, ...]:
        """Return the findings, the most severe first.

        Example:
            >>> faults = FoundFaults()
            >>> faults.add("silent", "train", "train.jsonl:3", "en-3", "-80 dBFS")
            >>> [(finding.code, finding.severity, finding.count) for finding in faults.findings()]
            [('silent', 'warning', 1)]
        """
        return tuple(
            DatasetFinding(
                code=code,
                severity=kind.severity,
                count=self._by_split[code].total(),
                by_split=dict(self._by_split[code]),
                message=kind.message,
                samples=tuple(self._samples.get(code, ())),
            )
            for code, kind in KINDS.items()
            if code in self._by_split
        )
