"""The clips of a manifest: checking what their files hold, where their codes are, and encoding those without."""

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

FRAME_RATE_HZ = 25  # of the Higgs codec: 24 kHz at 960 samples a frame; what pre-encoded codes are taken to have


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


class ClipStore:
    """Knows the codes of clips, and makes those that are missing.

    Args:
        limits: what a clip may be.
        codec: encodes audio; None where all clips have codes.
        cache_root: folder of the cache of codes.

    Attributes:
        frames: codec frames T of each file of codes; of one that is not written yet, the least it will have.
    """

    def __init__(self, limits: ClipLimits, codec: Codec | None, cache_root: Path) -> None:
        self.frames: dict[Path, int] = {}
        self._limits = limits
        self._codec = codec
        self._cache = CodeCache(cache_root, codec.fingerprint) if codec else None
        self._checked: dict[Clip, Path | AudioError] = {}
        self._unwritten: dict[Path, Clip] = {}

    def check(self, clip: Clip) -> Path:
        """Check what a clip's file holds, once.

        Returns:
            The file of its codes, there already or not.

        Raises:
            AudioError: the clip cannot be used.
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
        """Return the clips to encode for these files of codes, one for each file that is not there yet."""
        return [self._unwritten[path] for path in dict.fromkeys(files) if path in self._unwritten]

    def encode(self, clip: Clip) -> None:
        """Encode a clip and keep its codes.

        Raises:
            UserError: codec and model do not fit, or something failed that has nothing to do with the clip.
        """
        assert self._codec is not None, "clips of audio come with a codec"
        path = self.check(clip)
        try:
            waveform, rate = load_audio(clip.path, offset_s=clip.offset_s, duration_s=clip.duration_s)
        except AudioError as error:
            raise UserError(f"{clip.path}: {error}. It changed after it was checked; start again.") from error
        codes_KT = self._codec.encode(resample(waveform, rate, self._codec.sampling_rate_hz))
        limits = self._limits
        if codes_KT.shape[0] != limits.num_codebooks or codes_KT.max() >= limits.num_codes:
            raise UserError(
                f"--audio_tokenizer {self._codec.name}: expected {limits.num_codebooks} codebooks of "
                f"{limits.num_codes} codes, as the model has, got {codes_KT.shape[0]} codebooks and codes up to "
                f"{codes_KT.max()}. Name the codec that belongs to --base_ckpt."
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
        except AudioError:  # not there, or damaged after it was written: it will be encoded
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
