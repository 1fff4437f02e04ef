"""Blocks of a manifest: samples that are checked and tokenized together, and written together with their codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.audit.rows import spoken_clips
from higgs_audio_trainer.data.batch import TokenIds
from higgs_audio_trainer.data.clips import (
    MISSING,
    ClipLimits,
    FileState,
    check_audio,
    check_codes,
    check_seconds,
    clip_key,
    decode_audio,
    state_of,
)
from higgs_audio_trainer.data.fields import BadField
from higgs_audio_trainer.data.media_path import shown_name
from higgs_audio_trainer.data.preparation.jobs import Job
from higgs_audio_trainer.data.preparation.map_files import map_files
from higgs_audio_trainer.data.prompt import PromptSegment, TokenSegment, sequence_length, tokenize_all
from higgs_audio_trainer.data.sample import Clip, Sample, packed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from higgs_audio_trainer.data.codec import Codec
    from higgs_audio_trainer.data.preparation.clip_index import ClipIndex


@dataclass(frozen=True, slots=True)
class SampleRules:
    """Limits and tools for samples.

    Attributes:
        clips: Limits for clips.
        max_length: Length of the model's longest sequence, tokens.
        family: Name of the family of models.
        render: Returns the segments of a sample's prompt. Raises BadField for a sample that has no prompt.
        tokenizer: Tokenizer of the checkpoint.
        ids: Token ids and layout of the checkpoint.
        codec: Codec for clips of audio. None where all clips have codes.
    """

    clips: ClipLimits
    max_length: int
    family: str
    render: Callable[[Sample], list[PromptSegment]]
    tokenizer: PreTrainedTokenizerBase
    ids: TokenIds
    codec: Codec | None


@dataclass(slots=True)
class Block:
    """A block of samples.

    Attributes:
        rows: Samples that are usable so far, as values for JSON.
        jobs: Clips that had no row in the index.
        problems: Place, field, expectation and observation of each other sample.
        retry: Clips with problems, as values for JSON.
        decisions: Names of files by what was decided for the user.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    problems: list[tuple[str, str, str, str]] = field(default_factory=list)
    retry: list[list[Any]] = field(default_factory=list)
    decisions: dict[str, list[str]] = field(default_factory=dict)

    def add_problem(self, where: str, clip: Clip, error: AudioError) -> None:
        """Add the problem of a clip."""
        self.problems.append((where, clip.field, error.expected, f"{error.got} ({shown_name(clip.path)!r})"))
        self.retry.append(packed(clip))

    def write(self, path: Path) -> None:
        """Write the block as JSON, without jobs.

        Raises:
            OSError: The file cannot be written.
        """
        with atomic_file(path) as file:
            file.write(
                orjson.dumps(
                    [self.rows, self.problems, self.retry, self.decisions],
                    option=orjson.OPT_SERIALIZE_NUMPY,
                    default=list,
                )
            )

    @classmethod
    def read(cls, path: Path) -> Block:
        """Read a block without jobs."""
        rows, problems, retry, decisions = orjson.loads(path.read_bytes())
        return cls(rows, [], [tuple(problem) for problem in problems], retry, decisions)


def check_block(samples: Sequence[Sample], rules: SampleRules, index: ClipIndex | None) -> Block:
    """Check the headers of all clips of some samples, and tokenize the samples.

    Args:
        samples: Samples of the block.
        rules: What a sample must fit.
        index: Index of the codec, whose clips are not read again. None without a codec.
    """
    block = Block()
    known = _check_clips(list(dict.fromkeys(clip for sample in samples for clip in sample.clips)), rules, index, block)
    usable = [sample for sample in samples if _is_usable(sample, known, block)]
    rendered = _render(usable, rules, block)
    tokens = tokenize_all([segments for _, segments in rendered], rules.tokenizer)
    for (sample, _), segments in zip(rendered, tokens, strict=True):
        checked = [known[clip] for clip in sample.clips]
        frames = [found.frames for found in checked if isinstance(found, _Found)]
        if problem := problem_of_length(segments, frames, rules):
            block.problems.append((sample.where, *problem))
            continue
        texts = [segment.ids for segment in segments if segment.ids is not None]
        block.rows.append(
            {
                "id": sample.id,
                "where": sample.where,
                "speaker": sample.speaker,
                "text": "\n".join(
                    spoken.text for spoken in spoken_clips(sample) if spoken.text and not spoken.is_reference
                ),
                "tokens": np.concatenate(texts).astype(np.int32) if texts else [],
                "segments": [-1 if segment.ids is None else len(segment.ids) for segment in segments],
                "supervised": [int(segment.supervised) for segment in segments],
                "clips": [
                    found.about | {"text": spoken.text, "is_reference": spoken.is_reference}
                    for found, spoken in zip(checked, spoken_clips(sample), strict=True)
                    if isinstance(found, _Found)
                ],
            }
        )
    used = {clip["key"] for row in block.rows for clip in row["clips"] if "key" in clip}
    block.jobs = [job for job in block.jobs if job.key in used]
    return block


def _render(samples: Sequence[Sample], rules: SampleRules, block: Block) -> list[tuple[Sample, list[PromptSegment]]]:
    """Return samples with the segments of their prompts. The problems of the others are added to the block."""
    rendered = []
    for sample in samples:
        try:
            rendered.append((sample, rules.render(sample)))
        except BadField as bad:
            block.problems.append((sample.where, bad.field, bad.expected, bad.got))
    return rendered


@dataclass(frozen=True, slots=True)
class _Found:
    """Facts from the check of a clip.

    Attributes:
        about: Facts of the clip for a row.
        frames: Number of codec frames, or a lower limit.
        shortened: True if a duration without an offset ends the clip before the end of its file.
        job: The clip to encode, if the clip has no row in the index.
    """

    about: dict[str, Any]
    frames: int
    shortened: bool = False
    job: Job | None = None


def _check_clips(
    clips: Sequence[Clip], rules: SampleRules, index: ClipIndex | None, block: Block
) -> dict[Clip, _Found | AudioError]:
    """Check clips, and add their jobs and decisions to the block."""
    states = dict(zip(clips, map_files(_state, clips), strict=True))
    found = {clip: _indexed(clip, states[clip], rules, index) for clip in clips}
    rest = [clip for clip in clips if found[clip] is None]
    read = map_files(lambda clip: _read_clip(clip, states[clip], rules), rest)
    known = {clip: look for clip, look in found.items() if look is not None} | dict(zip(rest, read, strict=True))
    for clip in clips:
        name, look = shown_name(clip.path), known[clip]
        if clip.offset_s or clip.duration_s is not None:
            block.decisions.setdefault("stretch", []).append(name)
        if isinstance(look, _Found):
            if look.shortened:
                block.decisions.setdefault("shortened", []).append(name)
            if look.job is not None:
                block.jobs.append(look.job)
    return known


def _state(clip: Clip) -> FileState:
    return state_of(clip.path)


def _indexed(clip: Clip, state: FileState, rules: SampleRules, index: ClipIndex | None) -> _Found | AudioError | None:
    """Return the facts of a clip from the index, or None for a clip whose file must be read."""
    if state == MISSING:
        return AudioError("a file", "a name without a file")
    if clip.encoded:
        return None
    assert index is not None, "clips of audio come with an index"
    key = clip_key(clip, state)
    row = index.get(key)
    if row is None or "fault" in row:
        return None
    try:
        check_seconds(row["seconds"], rules.clips)
    except AudioError as error:
        return error
    return _Found({"clip": packed(clip), "key": key}, row["codes"][2][1], bool(row.get("shortened")))


def _read_clip(clip: Clip, state: FileState, rules: SampleRules) -> _Found | AudioError:
    try:
        if clip.encoded:
            return _Found({"clip": packed(clip)}, check_codes(clip, rules.clips).shape[1])
        job = job_of(clip, clip_key(clip, state), rules)
    except AudioError as error:
        return error
    return _Found({"clip": packed(clip), "key": job.key}, job.least_frames, job.shortened, job)


def _is_usable(sample: Sample, known: dict[Clip, _Found | AudioError], block: Block) -> bool:
    """Return True if all clips of a sample are usable. The problems of the others are added to the block."""
    problems = [(clip, known[clip]) for clip in sample.clips]
    for clip, found in problems:
        if isinstance(found, AudioError):
            block.add_problem(sample.where, clip, found)
    return not any(isinstance(found, AudioError) for _, found in problems)


def job_of(clip: Clip, key: str, rules: SampleRules) -> Job:
    """Check the header of a clip of audio, and return the clip as a job.

    Args:
        clip: Clip in the manifest.
        key: Key of the clip in the index.
        rules: What a sample must fit.

    Raises:
        AudioError: The clip is unusable.
    """
    assert rules.codec is not None, "clips of audio come with a codec"
    checked = check_audio(clip, rules.clips, rules.codec)
    fitted = checked.clip
    given = (clip.offset_s, clip.duration_s, clip.stated_s)
    return Job(
        packed(clip)[0], fitted.offset_s, fitted.duration_s, given, key, checked.claim, checked.seconds,
        checked.least_frames, checked.shortened,
    )  # fmt: skip


def problem_of_length(
    segments: Iterable[TokenSegment], frames: Sequence[int], rules: SampleRules
) -> tuple[str, str, str] | None:
    """Return field, expectation and observation of a sample that is too long for the model. None for any other.

    Args:
        segments: Tokens of the sample.
        frames: Number of codec frames of each clip.
        rules: What a sample must fit.
    """
    length = sequence_length(segments, frames, rules.ids)
    return ("sample", f"at most {rules.max_length} tokens", str(length)) if length > rules.max_length else None


def is_usable(clip: Clip, rules: SampleRules) -> bool:
    """Return True if the problem of a clip has gone."""
    try:
        if clip.encoded:
            check_codes(clip, rules.clips)
        elif rules.codec is not None:
            checked = check_audio(clip, rules.clips, rules.codec)
            decode_audio(checked.clip, rules.codec.sampling_rate_hz)
    except AudioError:
        return False
    return True
