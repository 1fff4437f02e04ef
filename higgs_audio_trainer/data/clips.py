"""Clips of a manifest: checks of the audio files, places of the codes, and encoding of clips without codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_audio_trainer.data.audio import AudioError, audio_info, load_audio, resample
from higgs_audio_trainer.data.codes import CodeCache, load_codes
from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from higgs_audio_trainer.data.codec import Codec

FRAME_RATE_HZ = 25  # of the Higgs codec, 24 kHz at 960 samples a frame; assumed for pre-encoded codes


_SLACK_S = 0.5  # by which the times of a manifest may go past the end of a file
_ROUNDING_S = 0.1  # of a length in a manifest


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """Limits for clips.

    Attributes:
        num_codebooks: Number of codebooks K of the model.
        num_codes: Number of codes of a codebook, without stream BOS and EOS.
        max_seconds: Length of the longest clip.
    """

    num_codebooks: int
    num_codes: int
    max_seconds: float


class ClipStore:
    """Finds the codes of clips, and encodes clips without codes.

    Args:
        limits: Limits for clips.
        codec: Codec for audio. None where all clips have codes.
        cache_root: Folder of the cache of codes.

    Attributes:
        frames: Number of codec frames T by file of codes. A lower limit for a file that does not exist yet.
        shortened: Clips that end before the end of their file, because of a duration without an offset.
        single_channel: Encoded clips of one channel, because the channels cancel each other out in the mean.
        frame_rate_hz: Codec frames a second.
    """

    def __init__(self, limits: ClipLimits, codec: Codec | None, cache_root: Path) -> None:
        self.frames: dict[Path, int] = {}
        self.shortened: list[Clip] = []
        self.single_channel: list[Clip] = []
        self.frame_rate_hz = FRAME_RATE_HZ if codec is None else codec.sampling_rate_hz / codec.hop_length
        self._limits = limits
        self._codec = codec
        self._cache = CodeCache(cache_root, codec.fingerprint) if codec else None
        self._checked: dict[Clip, Path | AudioError] = {}
        self._unwritten: dict[Path, Clip] = {}

    def check(self, clip: Clip) -> Path:
        """Check a clip's file on the first call for this clip.

        Returns:
            File of the clip's codes, which may not exist yet.

        Raises:
            AudioError: The clip is unusable.
        """
        if clip not in self._checked:
            try:
                self._checked[clip] = self._check_codes(clip) if clip.encoded else self._check_audio(clip)
            except AudioError as error:
                self._checked[clip] = error
        checked = self._checked[clip]
        if isinstance(checked, AudioError):
            raise checked
        return checked

    def waiting(self, files: Iterable[Path]) -> list[Clip]:
        """Return a clip to encode for each of these files of codes that does not exist yet."""
        return [self._unwritten[path] for path in dict.fromkeys(files) if path in self._unwritten]

    def encode(self, clip: Clip) -> None:
        """Encode a clip and store the codes.

        Raises:
            UserError: The codec does not fit the model, the clip's file changed, or the codes cannot be stored.
        """
        assert self._codec is not None, "clips of audio come with a codec"
        path = self.check(clip)
        try:
            mix, rate = load_audio(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
        except AudioError as error:
            raise UserError(f"{clip.path}: {error}. The file changed after the check. Start again.") from error
        codes_KT = self._codec.encode(resample(mix.waveform, rate, self._codec.sampling_rate_hz))
        limits = self._limits
        if codes_KT.shape[0] != limits.num_codebooks or codes_KT.max() >= limits.num_codes:
            raise UserError(
                f"--audio_tokenizer {self._codec.name}: expected {limits.num_codebooks} codebooks of "
                f"{limits.num_codes} codes, as in the model, got {codes_KT.shape[0]} codebooks and codes up to "
                f"{codes_KT.max()}. Use the codec of --base_ckpt."
            )
        CodeCache.store(path, codes_KT)
        self.frames[path] = codes_KT.shape[1]
        if mix.channel is not None:
            self.single_channel.append(clip)
        del self._unwritten[path]

    def _check_codes(self, clip: Clip) -> Path:
        num_frames = self._load(clip.path)
        seconds = num_frames / FRAME_RATE_HZ
        self._check_seconds(seconds)
        if clip.stated_s is not None and abs(clip.stated_s - seconds) > _longest_rounding(clip.stated_s, _SLACK_S):
            raise AudioError(f"codes of {clip.stated_s:g} s, as the duration says", f"{seconds:.2f} s")
        self.frames[clip.path] = num_frames
        return clip.path

    def _check_audio(self, clip: Clip) -> Path:
        assert self._codec is not None, "clips of audio come with a codec"
        assert self._cache is not None
        given, clip = clip, _fitted(clip)
        info = audio_info(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
        self._check_seconds(info.seconds)
        least_frames = info.length * self._codec.sampling_rate_hz // (info.rate * self._codec.hop_length)
        if least_frames == 0:
            frame_ms = 1000 * self._codec.hop_length / self._codec.sampling_rate_hz
            raise AudioError(f"at least one codec frame of audio, {frame_ms:g} ms", f"{1000 * info.seconds:.1f} ms")
        if given.stated_s is not None and clip.duration_s is not None:
            self.shortened.append(clip)
        path = self._cache.path(clip, channels=info.channels)
        if path in self.frames:  # the same audio under another name
            return path
        try:
            self.frames[path] = self._load(path)
        except AudioError:  # missing or damaged: the clip waits for encoding
            load_audio(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
            self.frames[path] = least_frames
            self._unwritten[path] = clip
        return path

    def _load(self, path: Path) -> int:
        codes_KT = load_codes(path, num_codebooks=self._limits.num_codebooks, num_codes=self._limits.num_codes)
        return codes_KT.shape[1]

    def _check_seconds(self, seconds: float) -> None:
        if seconds > self._limits.max_seconds:
            raise AudioError(f"at most {self._limits.max_seconds:g} s (--max_seconds)", f"{seconds:.2f} s")


def _fitted(clip: Clip) -> Clip:
    """Return the clip with a stretch that lies within the file, and without a duration for a whole file.

    Raises:
        AudioError: The stretch goes past the end of the file, or the file cannot be read, or it is unclear whether the
            duration is the length of the file.
    """
    if clip.duration_s is None and clip.stated_s is None:
        return clip
    info = audio_info(clip.path)
    seconds = info.seconds
    if clip.duration_s is not None:
        end_s = clip.offset_s + clip.duration_s
        if end_s > seconds + _SLACK_S:
            raise AudioError(f"an end within the recording of {seconds:.2f} s", f"an end at {end_s:.2f} s")
        is_whole = clip.offset_s == 0 and abs(end_s - seconds) <= 1 / info.rate
        return replace(clip, duration_s=None) if is_whole else clip
    return _fitted_to_stated(clip, seconds)


def _fitted_to_stated(clip: Clip, seconds: float) -> Clip:
    """Return the whole recording, or the stretch from its beginning, whichever the stated length means."""
    stated_s = clip.stated_s
    assert stated_s is not None
    if stated_s - seconds > _longest_rounding(stated_s, _SLACK_S):
        raise AudioError(f"a recording of {stated_s:g} s, as the duration says", f"{seconds:.2f} s")
    if seconds - stated_s <= _ROUNDING_S:
        return replace(clip, stated_s=None)
    if seconds - stated_s < _longest_rounding(stated_s, 0):
        raise AudioError(
            f"a duration of {seconds:.2f} s, or an offset of 0 for the first {stated_s:g} s",
            f"a duration of {stated_s:g} s, which may be rounded",
        )
    return replace(clip, duration_s=stated_s, stated_s=None)


def _longest_rounding(seconds: float, least: float) -> float:
    """Return the largest difference between a length in a manifest and the true length; seconds."""
    return max(1.0 if seconds.is_integer() else 0.0, least)
