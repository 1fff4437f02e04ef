"""Faults of a single generated speech, against its recording, its text, and what recorded speech is like.

The limits are far outside of recordings. Of 127 recordings (the bundled clips and telephone prompts, with
codes of the tiny DAC), none has more than 6 % repeated frames, a run of more than 4 frames, or more than 49 % silence.
"""

from __future__ import annotations

from statistics import fmean

from higgs_audio_trainer.events import GenerationSample

_LONGER = 1.25  # times the recording; a slow speaker ends before
_SHORTER = 0.25  # times the recording; the fastest speaker needs more, also if half of the recording is silence
# The Higgs codec has 25 frames a second. The limits also hold from 12.5 to 50 frames a second.
_FRAMES_A_BYTE, _FRAMES_MORE = 6.0, 50  # of UTF-8; slow speech has 3 frames a byte, and a pause of a second 25 frames
_FRAMES_A_LETTER = 1 / 3  # fast speech has a frame for each letter or digit
_AUDIBLE_FRAMES = 5  # a shorter speech is no evidence of silence
_SILENT = 0.95  # share of the waveform; recordings have less than half
_INAUDIBLE_PEAK = 10 ** (-50 / 20)  # -50 dBFS, the level of a silent window
_STUCK_FRAMES = 25  # a second
_STUCK_RUN = 0.5  # share of the frames; a recording with digital silence has shorter runs
_STUCK_REPEATS = 2 / 3  # share of the frames; a recording that is half digital silence has 1/2
_RECORDED_RUN = 0.7  # share of the frames, as in a recording with so much digital silence that it teaches silence
_AS_RECORDED = 0.5  # share of a recording's codes; a speech with so many repeats what the recording repeats


def verdicts(sample: GenerationSample) -> dict[str, bool]:
    """Return whether a speech has each fault, by the code of the check, without faults that cannot be judged.

    - `never_stops`: the limit ended the speech, well beyond the end of the recording, or beyond the time that slow
      speech needs for the text. Not judged for a speech that a lower limit ended.
    - `too_short`: the speech ended by itself, far before the end of the recording, or too early for the text.
    - `silent_voice`: the decoded speech is inaudible.
    - `stuck`: one frame fills at least a second and half of the speech, or two thirds of the frames repeat the one
      before. A speech as recorded, which may repeat what the recording repeats, must be one frame for 70 %.
    """
    found: dict[str, bool] = {}
    latest = _latest_end(sample)
    if sample.stopped:
        if latest is not None:
            found["never_stops"] = False
            is_cut = sample.frames < _SHORTER * (sample.frames_label or 0)
            found["too_short"] = is_cut or is_short_for_its_text(sample.frames, sample.text)
    elif latest is not None and sample.frames >= latest:
        found |= {"never_stops": True, "too_short": False}
    if sample.silence_share is not None and sample.frames >= _AUDIBLE_FRAMES:
        inaudible = sample.peak is not None and sample.peak < _INAUDIBLE_PEAK
        found["silent_voice"] = inaudible or sample.silence_share >= _SILENT
    if sample.frames >= _STUCK_FRAMES:
        found["stuck"] = _repeats(sample)
    return found


def is_short_for_its_text(frames: int, text: str) -> bool:
    """Return True if nobody speaks a text in so few frames.

    Example:
        >>> is_short_for_its_text(7, "The kettle is on, and the tea is almost ready.")
        True
        >>> is_short_for_its_text(20, "今天下午三点有一艘船开往对岸。")
        False
    """
    return frames < _FRAMES_A_LETTER * sum(map(str.isalnum, text))


def is_as_recorded(sample: GenerationSample) -> bool:
    """Return True if a speech has most codes of its recording at their places, whatever follows."""
    if not sample.agreement or not sample.frames_label:
        return False
    longer = max(sample.frames, sample.frames_label) / sample.frames_label  # `agreement` is a share of the longer one
    return fmean(sample.agreement) * longer >= _AS_RECORDED


def _latest_end(sample: GenerationSample) -> float | None:
    """Return the frames after which a speech must have ended. None for a speech without recording and text."""
    if sample.frames_label is not None:
        return _LONGER * sample.frames_label
    size = len(sample.text.strip().encode(errors="replace"))
    return _FRAMES_A_BYTE * size + _FRAMES_MORE if size else None


def _repeats(sample: GenerationSample) -> bool:
    is_recorded = is_as_recorded(sample)
    least = _RECORDED_RUN if is_recorded else _STUCK_RUN
    is_run = sample.longest_run >= max(_STUCK_FRAMES, least * sample.frames)
    return is_run or (sample.repeat_share >= _STUCK_REPEATS and not is_recorded)
