"""Codecs for tests of the preparation."""

from types import SimpleNamespace

import numpy as np


class FakeCodec(SimpleNamespace):
    """Encodes a clip as the mean level of each frame, and records its calls."""

    def __init__(self, fingerprint: str = "f0", codebooks: int = 3, codes: int = 1024) -> None:
        super().__init__(name="fake", folder="fake", fingerprint=fingerprint, sampling_rate_hz=24_000, hop_length=960)
        self.codebooks, self.codes = codebooks, codes
        self.encoded: list[int] = []

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Return the codes of a clip."""
        self.encoded.append(len(waveform))
        levels = np.abs(waveform[: len(waveform) // 960 * 960].reshape(-1, 960)).mean(axis=1)
        return np.tile((levels * (self.codes - 1)).astype(np.int64), (self.codebooks, 1))
