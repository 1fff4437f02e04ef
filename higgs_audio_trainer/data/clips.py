"""Clips of a manifest: checks of the audio files, places of the codes, and encoding of clips without codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_audio_trainer.data.audio import AudioError, audio_length, load_audio, resample
from higgs_audio_trainer.data.codes import CodeCache, load_codes
from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from higgs_audio_trainer.data.codec import Codec

FRAME_RATE_HZ = 25  # of the Higgs codec, 24 kHz at 960 samples a frame; assumed for pre-encoded codes


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
    """

    def __init__(self, limits: ClipLimits, codec: Codec | None, cache_root: Path) -> None:
        self.frames: dict[Path, int] = {}
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
            waveform, rate = load_audio(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
        except AudioError as error:
            raise UserError(f"{clip.path}: {error}. The file changed after the check. Start again.") from error
        codes_KT = self._codec.encode(resample(waveform, rate, self._codec.sampling_rate_hz))
        limits = self._limits
        if codes_KT.shape[0] != limits.num_codebooks or codes_KT.max() >= limits.num_codes:
            raise UserError(
                f"--audio_tokenizer {self._codec.name}: expected {limits.num_codebooks} codebooks of "
                f"{limits.num_codes} codes, as in the model, got {codes_KT.shape[0]} codebooks and codes up to "
                f"{codes_KT.max()}. Use the codec of --base_ckpt."
            )
        CodeCache.store(path, codes_KT)
        self.frames[path] = codes_KT.shape[1]
        del self._unwritten[path]

    def _check_codes(self, clip: Clip) -> Path:
        num_frames = self._load(clip.path)
        self._check_seconds(num_frames / FRAME_RATE_HZ)
        self.frames[clip.path] = num_frames
        return clip.path

    def _check_audio(self, clip: Clip) -> Path:
        assert self._codec is not None, "clips of audio come with a codec"
        assert self._cache is not None
        length, rate = audio_length(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
        self._check_seconds(length / rate)
        least_frames = length * self._codec.sampling_rate_hz // (rate * self._codec.hop_length)
        if least_frames == 0:
            frame_ms = 1000 * self._codec.hop_length / self._codec.sampling_rate_hz
            raise AudioError(f"at least one codec frame of audio, {frame_ms:g} ms", f"{1000 * length / rate:.1f} ms")
        path = self._cache.path(clip)
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
