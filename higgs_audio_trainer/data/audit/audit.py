"""The audit: statistics and findings of the samples of training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.audit.characters import SCRIPTS, TextClasses, classify
from higgs_audio_trainer.data.audit.columns import SPLITS, ColumnsBuilder, SampleNames, hash_number, text_number
from higgs_audio_trainer.data.audit.comparisons import Comparisons
from higgs_audio_trainer.data.audit.findings import FoundFaults
from higgs_audio_trainer.data.audit.rows import AuditedClip, AuditedSample
from higgs_audio_trainer.data.audit.sounds import sound_faults
from higgs_audio_trainer.data.audit.statistics import split_statistics
from higgs_audio_trainer.data.audit.texts import (
    look_alike_word,
    name_of,
    soundless_characters,
    without_control_tokens,
)
from higgs_audio_trainer.data.container import CUT_OFF
from higgs_audio_trainer.errors import InputProblem
from higgs_audio_trainer.events import DatasetAudit, Split

_BATCH = 4096  # samples whose texts are classified at once
_MOST_BYTE_TOKENS = 0.25  # tokens that are parts of characters, for each letter or digit
_LEAST_BYTE_TOKENS = 5  # one emoji has up to four
_FEW_CHARACTERS = 2
_SYLLABIC = frozenset(SCRIPTS.index(name) for name in ("Han", "Japanese", "Hangul"))  # a character may be a word
_Faults = dict[str, str]  # detail by code


def audit_samples(
    train: Iterable[AuditedSample],
    evaluation: Iterable[AuditedSample] = (),
    *,
    left_out: Iterable[tuple[Split, InputProblem]] = (),
) -> DatasetAudit:
    """Return statistics and findings of samples.

    Memory holds about 160 bytes a sample. Equal samples give an equal audit.

    Args:
        train: Training samples, in the order of the manifest. Read once.
        evaluation: Evaluation samples.
        left_out: Problems of the samples that are left out, with their split.

    Example:
        >>> clip = AuditedClip("Good morning.", 1.5, audio_hash="00ff")
        >>> train, evaluation = AuditedSample("a", "t.jsonl:1", (clip,)), AuditedSample("b", "e.jsonl:1", (clip,))
        >>> audit = audit_samples([train], [evaluation])
        >>> [(finding.code, finding.samples[0].where, finding.samples[0].detail) for finding in audit.findings]
        [('leak', 'e.jsonl:1', 'as t.jsonl:1 (a)'), ('same_text', 'e.jsonl:1', 'as t.jsonl:1 (a)')]
    """
    auditor = _Auditor()
    for split, samples in zip(SPLITS, (train, evaluation), strict=True):
        auditor.take(split, iter(samples))
    auditor.take_left_out(left_out)
    return auditor.audit()


class _Auditor:
    """An audit in progress."""

    def __init__(self) -> None:
        self._faults = FoundFaults()
        self._names = SampleNames()
        self._ids: list[npt.NDArray[np.int64]] = []
        self._columns = ColumnsBuilder()
        self._counts: dict[Split, int] = {}
        self._speakers: dict[Split, set[str]] = {}

    def take(self, split: Split, samples: Iterator[AuditedSample]) -> None:
        """Take all samples of a split."""
        before = len(self._names)
        speakers = self._speakers[split] = set()
        while batch := list(islice(samples, _BATCH)):
            speakers.update(sample.speaker for sample in batch if sample.speaker is not None)
            self._take_batch(split, batch)
        self._counts[split] = len(self._names) - before

    def take_left_out(self, problems: Iterable[tuple[Split, InputProblem]]) -> None:
        """Take the first problem of each left-out sample."""
        before: tuple[Split, str] | None = None
        for split, problem in problems:
            if (split, problem.where) != before:
                before = split, problem.where
                code = "shorter" if CUT_OFF in problem.got else "left_out"
                detail = f"{problem.field}: expected {problem.expected}, got {problem.got}"
                self._faults.add(code, split, problem.where, "", detail)

    def _take_batch(self, split: Split, batch: Sequence[AuditedSample]) -> None:
        first = len(self._names)
        clips = [clip for sample in batch for clip in sample.clips]
        owners = [number for number, sample in enumerate(batch) for _ in sample.clips]
        texts = [without_control_tokens(clip.text or "") for clip in clips]
        classes = classify(texts)
        self._names.add((sample.where, sample.id) for sample in batch)
        self._ids.append(np.array([hash(sample.id) for sample in batch], dtype=np.int64))
        self._add_columns(clips, classes, np.array(owners, dtype=np.uint32) + first)
        found: dict[int, _Faults] = {}
        for number, clip in enumerate(clips):
            if clip.facts is not None and (faults := sound_faults(clip.facts)):
                _add_faults(found, owners[number], clip, faults)
        for number in np.flatnonzero(_is_suspect(classes)).tolist():
            if clips[number].text is not None:
                faults = list(_text_faults(texts[number], classes, number))
                _add_faults(found, owners[number], clips[number], faults)
        for number, clip in enumerate(clips):
            if clip.unknown_tokens:
                detail = ", ".join(clip.unknown_tokens)
                _add_faults(found, owners[number], clip, [("unknown_control_token", detail)])
        _add_byte_tokens(found, batch, np.bincount(owners, classes.characters, minlength=len(batch)))
        for number, details in sorted(found.items()):
            for code, detail in details.items():
                self._faults.add(code, split, batch[number].where, batch[number].id, detail)

    def _add_columns(self, clips: Sequence[AuditedClip], classes: TextClasses, owners: npt.NDArray[np.uint32]) -> None:
        self._columns.add(
            (
                owners,
                [clip.is_reference for clip in clips],
                [hash_number(clip.audio_hash) for clip in clips],
                [hash_number(clip.codes_hash) for clip in clips],
                [0 if clip.text is None else text_number(clip.text) for clip in clips],
                [np.nan if clip.seconds is None else clip.seconds for clip in clips],
                [_speech_seconds(clip) for clip in clips],
                classes.length,
                classes.script,
                [0 if clip.facts is None else clip.facts.rate for clip in clips],
                [hash_number(clip.file_hash) for clip in clips],
                [clip.start_s for clip in clips],
            )
        )

    def audit(self) -> DatasetAudit:
        """Compare all samples and return the audit."""
        columns = self._columns.columns()
        num_train, num_eval = self._counts["train"], self._counts["eval"]
        ids = np.concatenate(self._ids) if self._ids else np.empty(0, dtype=np.int64)
        comparisons = Comparisons(columns, num_train, self._names, self._faults)
        comparisons.compare(ids)
        splits = {"train": split_statistics(columns, 0, num_train, self._speakers["train"])}
        if num_eval:
            splits["eval"] = split_statistics(columns, num_train, num_eval, self._speakers["eval"])
        return DatasetAudit(splits=splits, findings=self._faults.findings())


def _speech_seconds(clip: AuditedClip) -> float:
    if clip.seconds is None:
        return np.nan
    if clip.facts is None or clip.facts.level_dbfs is None:
        return clip.seconds
    return clip.seconds - clip.facts.leading_silence_s - clip.facts.trailing_silence_s


def _text_faults(text: str, classes: TextClasses, number: int) -> Iterator[tuple[str, str]]:
    """Yield code and detail of each fault of a text."""
    if classes.characters[number] == 0:
        yield "empty_text", repr(text)
    elif classes.characters[number] == 1 and classes.script[number] not in _SYLLABIC:
        yield "one_character", repr(text)
    if classes.is_suspicious[number] and (found := soundless_characters(text)):
        yield "soundless_characters", ", ".join(map(name_of, found))
    if classes.has_double_space[number]:
        yield "double_spaces", ""
    if classes.is_mixed[number] and (word := look_alike_word(text)):
        yield "mixed_scripts", word


def _is_suspect(classes: TextClasses) -> npt.NDArray[np.bool_]:
    few = classes.characters < _FEW_CHARACTERS
    return classes.is_mixed | classes.is_suspicious | classes.has_double_space | few


def _add_faults(found: dict[int, _Faults], number: int, clip: AuditedClip, faults: Iterable[tuple[str, str]]) -> None:
    for code, detail in faults:
        of_sample = found.setdefault(number, {})
        of_sample.setdefault(code, f"reference: {detail}" if clip.is_reference else detail)


def _add_byte_tokens(found: dict[int, _Faults], batch: Sequence[AuditedSample], characters: npt.NDArray[Any]) -> None:
    tokens = np.array([sample.byte_tokens or 0 for sample in batch])
    for number in np.flatnonzero((tokens >= _LEAST_BYTE_TOKENS) & (tokens > _MOST_BYTE_TOKENS * characters)).tolist():
        found.setdefault(number, {})["byte_tokens"] = f"{tokens[number]} tokens are parts of characters"
