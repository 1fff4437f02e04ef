"""A manifest made ready: every file behind it checked, every clip encoded once, every prompt tokenized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_audio_trainer.data.audio import AudioError, load_audio, resample
from higgs_audio_trainer.data.batch import PreparedSample, TokenIds
from higgs_audio_trainer.data.codes import CodeCache, load_codes
from higgs_audio_trainer.data.manifest import Clip, Sample, read_manifest
from higgs_audio_trainer.data.prompt import sequence_length, tokenize
from higgs_audio_trainer.errors import Fault, ManifestError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from higgs_audio_trainer.data.codec import Codec

FRAME_RATE_HZ = 25  # of the Higgs codec: 24 kHz at 960 samples a frame

Progress = Callable[[Sequence[Clip]], Iterable[Clip]]


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """What a clip may be.

    Attributes:
        num_codebooks: K that the model has.
        num_codes: codes of a codebook, below stream BOS and EOS.
        max_seconds: longest clip.
    """

    num_codebooks: int
    num_codes: int
    max_seconds: float


@dataclass(slots=True)
class CodeFiles:
    """Where the codes of each clip are, and how many frames they have.

    Attributes:
        of: the file of each clip.
        frames: codec frames T of each file.
        encoded: how many clips were encoded just now.
    """

    of: dict[Clip, Path] = field(default_factory=dict)
    frames: dict[Path, int] = field(default_factory=dict)
    encoded: int = 0


def check_and_encode(
    manifest: str | Path,
    *,
    limits: ClipLimits,
    codec: Callable[[], Codec],
    cache_root: Path,
    skip_bad_samples: bool = False,
    progress: Progress = iter,
) -> tuple[list[Sample], list[Fault], CodeFiles]:
    """Check a manifest and every file it names, then encode the clips that have no codes yet.

    All faults are found before anything is encoded, but for the few that only encoding shows.

    Args:
        manifest: path of the manifest.
        limits: what a clip may be.
        codec: opens the codec; called once, and only if the manifest names audio.
        cache_root: folder of the cache of codes.
        skip_bad_samples: go on without the samples that have faults.
        progress: wraps the clips that are encoded, e.g. to draw a bar.

    Returns:
        The samples that can be used, the faults of the others, and the files of their codes.

    Raises:
        ManifestError: there are faults and they are not to be skipped, or no sample is left.
        UserError: the manifest or the codec cannot be read.
    """
    samples, faults = read_manifest(manifest)
    files = CodeFiles()
    opened = codec() if any(not clip.encoded for sample in samples for clip in sample.clips) else None
    cache = CodeCache(cache_root, opened.fingerprint) if opened else None
    samples = _keep(samples, faults, lambda clip: _check_clip(clip, limits, cache, files))
    _stop_at_faults(samples, faults, skip_bad_samples)
    if opened is not None:
        waiting = [clip for sample in samples for clip in sample.clips if files.of[clip] not in files.frames]
        broken: dict[Clip, AudioError] = {}
        for clip in progress(list(dict.fromkeys(waiting))):
            try:
                _encode(clip, opened, limits, files)
            except AudioError as error:
                broken[clip] = error
        samples = _keep(samples, faults, lambda clip: _raise_if_in(broken, clip))
        _stop_at_faults(samples, faults, skip_bad_samples)
    return samples, faults, files


def _keep(samples: Sequence[Sample], faults: list[Fault], check: Callable[[Clip], None]) -> list[Sample]:
    kept = []
    for sample in samples:
        found = []
        for clip in sample.clips:
            try:
                check(clip)
            except AudioError as error:
                found.append(Fault(sample.where, clip.field, error.expected, f"{error.got} ({clip.path.name})"))
        faults.extend(found)
        if not found:
            kept.append(sample)
    return kept


def _stop_at_faults(samples: Sequence[Sample], faults: Sequence[Fault], skip_bad_samples: bool) -> None:
    if faults and (not skip_bad_samples or not samples):
        raise ManifestError(sorted(faults, key=_line_number))


def _line_number(fault: Fault) -> int:
    return int(fault.where.rpartition(":")[2])


def _check_clip(clip: Clip, limits: ClipLimits, cache: CodeCache | None, files: CodeFiles) -> None:
    if clip.encoded:
        codes = load_codes(clip.path, num_codebooks=limits.num_codebooks, num_codes=limits.num_codes)
        _check_seconds(codes.shape[1] / FRAME_RATE_HZ, limits)
        files.of[clip] = clip.path
        files.frames[clip.path] = codes.shape[1]
        return
    assert cache is not None, "a manifest with audio has a codec"
    if clip not in files.of:
        path = _cache_path(cache, clip)
        frames = _cached_frames(path, limits)
        if frames is None:
            waveform, rate = load_audio(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
            _check_seconds(len(waveform) / rate, limits)
        else:  # it was read whole when it was encoded
            _check_seconds(frames / FRAME_RATE_HZ, limits)
            files.frames[path] = frames
        files.of[clip] = path


def _cache_path(cache: CodeCache, clip: Clip) -> Path:
    try:
        return cache.path(clip)
    except OSError as error:
        raise AudioError("a readable file", str(error.strerror)) from error


def _check_seconds(seconds: float, limits: ClipLimits) -> None:
    if seconds > limits.max_seconds:
        raise AudioError(f"at most {limits.max_seconds:g} s (--max_seconds)", f"{seconds:.2f} s")


def _cached_frames(path: Path, limits: ClipLimits) -> int | None:
    if not path.exists():
        return None
    try:
        return load_codes(path, num_codebooks=limits.num_codebooks, num_codes=limits.num_codes).shape[1]
    except AudioError:
        return None  # a file that was damaged after it was written is encoded again


def _encode(clip: Clip, codec: Codec, limits: ClipLimits, files: CodeFiles) -> None:
    path = files.of[clip]
    if path in files.frames:  # the same audio under another name
        return
    waveform, rate = load_audio(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
    codes_KT = codec.encode(resample(waveform, rate, codec.sampling_rate_hz))
    if codes_KT.shape[0] != limits.num_codebooks or codes_KT.max() >= limits.num_codes:
        raise UserError(
            f"--audio_tokenizer {codec.name}: expected {limits.num_codebooks} codebooks of {limits.num_codes} codes, as "
            f"the model has, got {codes_KT.shape[0]} codebooks and codes up to {codes_KT.max()}. "
            "Name the codec that belongs to --base_ckpt."
        )
    CodeCache.store(path, codes_KT)
    files.frames[path] = codes_KT.shape[1]
    files.encoded += 1


def _raise_if_in(broken: dict[Clip, AudioError], clip: Clip) -> None:
    if clip in broken:
        raise broken[clip]


def tokenize_samples(
    samples: Sequence[Sample],
    files: CodeFiles,
    tokenizer: PreTrainedTokenizerBase,
    ids: TokenIds,
    *,
    max_length: int,
) -> tuple[list[PreparedSample], list[Fault]]:
    """Tokenize samples whose clips are encoded.

    Args:
        samples: the samples.
        files: codes of their clips.
        tokenizer: the checkpoint's.
        ids: ids of the checkpoint.
        max_length: longest sequence that the model takes, in tokens.

    Returns:
        The prepared samples, and the faults of those that are too long.
    """
    prepared, faults = [], []
    for sample in samples:
        segments = tokenize(sample, tokenizer)
        paths = tuple(files.of[clip] for clip in sample.clips)
        length = sequence_length(segments, (files.frames[path] for path in paths), ids.num_codebooks)
        if length > max_length:
            faults.append(Fault(sample.where, "sample", f"at most {max_length} tokens", f"{length}"))
            continue
        prepared.append(PreparedSample(sample.id, tuple(segments), paths))
    return prepared, faults
