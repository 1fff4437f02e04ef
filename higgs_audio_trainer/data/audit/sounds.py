"""Faults of the sound of a clip."""

from __future__ import annotations

from higgs_audio_trainer.data.audio_facts import AudioFacts

_SILENT_DBFS = -60.0
_LEAST_CLIPPED = 5e-4  # share of the samples
_LEAST_OFFSET = 0.01  # of full scale, -40 dBFS
_LOWEST_RATE_HZ = 16_000
_LONGEST_SILENCE_S = 1.0
_SLACK_S = 0.1  # headers of MP3 files round up to packets, and some tell the length by the size of the file


def sound_faults(facts: AudioFacts) -> list[tuple[str, str]]:
    """Return code and detail of each fault of a clip's sound.

    Example:
        >>> import numpy as np
        >>> from higgs_audio_trainer.data.audio_facts import audio_facts
        >>> sound_faults(audio_facts(np.zeros((8_000, 1), np.float32), 8_000))
        [('silent', 'no sound'), ('low_rate', '8000 Hz')]
    """
    level, found = facts.level_dbfs, []
    is_silent = level is None or level < _SILENT_DBFS
    if is_silent:
        found.append(("silent", "no sound" if level is None else f"{level:.0f} dBFS"))
    if facts.rate < _LOWEST_RATE_HZ:
        found.append(("low_rate", f"{facts.rate} Hz"))
    if facts.promised_frames - facts.frames > _SLACK_S * facts.rate:
        found.append(("shorter", f"{facts.seconds:.2f} s of {facts.promised_frames / facts.rate:.2f} s"))
    if facts.clipped_share > _LEAST_CLIPPED:
        found.append(("clipped", f"{facts.clipped_share:.2%} of the samples at a peak of {facts.peak:.2f}"))
    if abs(facts.offset) > _LEAST_OFFSET:
        found.append(("offset", f"mean {facts.offset:.3f} of full scale"))
    if facts.cancels:
        found.append(("cancelling_channels", f"{facts.channels} channels"))
    if facts.beyond_share:
        found.append(("beyond_full_scale", f"peak {facts.peak:.2f}"))
    if facts.leading_silence_s > _LONGEST_SILENCE_S and not is_silent:
        found.append(("leading_silence", f"{facts.leading_silence_s:.1f} s"))
    if facts.trailing_silence_s > _LONGEST_SILENCE_S and not is_silent:
        found.append(("trailing_silence", f"{facts.trailing_silence_s:.1f} s"))
    return found
