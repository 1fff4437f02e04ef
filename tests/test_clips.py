"""Clips: keys, checks of the headers, and lengths."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.clips import (
    MISSING,
    ClipLimits,
    check_audio,
    check_codes,
    clip_key,
    decode_audio,
    encode_audio,
    state_of,
)
from higgs_audio_trainer.data.sample import Clip, packed, unpacked
from higgs_audio_trainer.errors import UserError
from tests.codecs import FakeCodec
from tests.samples import tone, write_tone

LIMITS = ClipLimits(3, 1024, 60.0)


def test_path_state_stretch_each_make_another_key(tmp_path):
    """What may sound different never shares a row. The field of the manifest makes no difference."""
    a = write_tone(tmp_path / "a.wav")
    state = state_of(a)
    clips = [
        Clip(a, encoded=False),
        Clip(tmp_path / "b.wav", encoded=False),
        Clip(a, encoded=False, offset_s=0.1),
        Clip(a, encoded=False, duration_s=0.1),
        Clip(a, encoded=False, stated_s=0.1),
    ]
    keys = [clip_key(clip, state) for clip in clips]
    keys += [clip_key(clips[0], state._replace(size=1)), clip_key(clips[0], state._replace(mtime_ns=1))]
    assert len(set(keys)) == 7
    assert clip_key(Clip(a, encoded=False, field="ref_audio"), state) == keys[0]


def test_a_missing_file_has_a_state(tmp_path):
    """A file that appears later has another state."""
    assert state_of(tmp_path / "no.wav") == MISSING
    assert state_of(tmp_path / ("x" * 300)) == MISSING


def test_a_name_in_another_encoding_is_kept():
    """A clip is the same after it was written as JSON."""
    clip = Clip(Path(os.fsdecode(b"/\xff.wav")), encoded=False)
    assert unpacked(packed(clip)) == clip


@pytest.mark.parametrize(
    ("seconds", "fault"),
    [
        (2.1, "expected at most 2 s (--max_seconds), got 2.10 s"),
        (0.03, "expected at least one codec frame of audio, 40 ms, got 30.0 ms"),
    ],
)
def test_a_clip_of_the_wrong_length_is_refused_by_its_header(tmp_path, seconds, fault):
    """Too long and too short are known before anything is decoded."""
    clip = Clip(write_tone(tmp_path / "a.wav", seconds, 8_000), encoded=False)
    with pytest.raises(AudioError) as caught:
        check_audio(clip, ClipLimits(3, 1024, 2), FakeCodec())
    assert str(caught.value) == fault


def test_one_frame_is_enough(tmp_path):
    """40 ms is the shortest clip, at every rate."""
    codec = FakeCodec()
    for rate in (8_000, 11_025, 44_100, 48_000):
        clip = check_audio(Clip(write_tone(tmp_path / f"{rate}.wav", 0.04, rate), encoded=False), LIMITS, codec)
        assert clip.least_frames == 1
        assert encode_audio(decode_audio(clip.clip, 24_000).waveform, codec, LIMITS).shape == (3, 1)


def test_codes_in_place_of_audio_are_checked(tmp_path):
    """Their length counts at 25 frames a second."""
    np.save(tmp_path / "c.npy", np.zeros((3, 51), dtype=int))
    clip = Clip(tmp_path / "c.npy", encoded=True)
    assert check_codes(clip, ClipLimits(3, 1024, 2.04)).shape == (3, 51)
    with pytest.raises(AudioError, match=r"at most 2 s .*, got 2.04 s"):
        check_codes(clip, ClipLimits(3, 1024, 2.0))


@pytest.mark.parametrize(
    ("stated_s", "seconds"),
    [(2.5, 2.5), (2.55, 2.5), (2.9, 2.5), (3.0, 2.5), (1.25, 1.25), (0.5, 0.5)],
)
def test_a_duration_without_an_offset_is_the_files_length_or_the_end_of_a_stretch(tmp_path, stated_s, seconds):
    """A duration near the length of the file is the whole file. A shorter duration is a stretch from the beginning."""
    path = write_tone(tmp_path / "a.wav", 2.5, 8_000)
    checked = check_audio(Clip(path, encoded=False, stated_s=stated_s), LIMITS, FakeCodec())
    assert len(decode_audio(checked.clip, 24_000).waveform) == seconds * 24_000
    assert (checked.seconds, checked.shortened) == (seconds, seconds < 2.5)


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        ({"stated_s": 3.6}, "expected a recording of 3.6 s, as the duration says, got 2.50 s"),
        (
            {"stated_s": 2.0},
            (
                "expected a duration of 2.50 s, or an offset of 0 for the first 2 s, "
                "got a duration of 2 s, which may be rounded"
            ),
        ),
        ({"offset_s": 1.0, "duration_s": 2.5}, "expected an end within the recording of 2.50 s, got an end at 3.50 s"),
        ({"offset_s": 9.0, "duration_s": 1.0}, "expected an end within the recording of 2.50 s, got an end at 10.00 s"),
    ],
)
def test_times_that_do_not_fit_the_recording_are_refused(tmp_path, times, fault):
    """A text is never trained with less sound than the manifest says."""
    clip = Clip(write_tone(tmp_path / "a.wav", 2.5, 8_000), encoded=False, **times)
    with pytest.raises(AudioError) as caught:
        check_audio(clip, LIMITS, FakeCodec())
    assert str(caught.value) == fault


def test_codes_are_as_long_as_the_duration_says(tmp_path):
    """Codes of another length belong to another recording."""
    np.save(tmp_path / "c.npy", np.zeros((3, 50), dtype=int))
    for stated_s in (2.0, 2.3, 1.6, 3.0):
        check_codes(Clip(tmp_path / "c.npy", encoded=True, stated_s=stated_s), LIMITS)
    with pytest.raises(AudioError, match=r"expected codes of 4.5 s, as the duration says, got 2.00 s"):
        check_codes(Clip(tmp_path / "c.npy", encoded=True, stated_s=4.5), LIMITS)


def test_the_same_recording_has_one_hash_and_one_claim(tmp_path):
    """A copy is the same recording, also in a lossless format. Another stretch is another recording."""
    wave = (tone(0.5, 8_000) * 20_000).astype(np.int16)
    for name in ("a.wav", "b.wav", "c.flac"):
        soundfile.write(tmp_path / name, wave, 8_000, subtype="PCM_16")
    clips = [Clip(tmp_path / name, encoded=False) for name in ("a.wav", "b.wav", "c.flac")]
    clips.append(Clip(tmp_path / "a.wav", encoded=False, duration_s=0.25))
    hashes = [decode_audio(clip, 24_000).row["facts"]["content_hash"] for clip in clips]
    assert hashes.count(hashes[0]) == 3
    claims = [check_audio(clip, LIMITS, FakeCodec()).claim for clip in clips]
    assert claims[0] == claims[1]
    assert len(set(claims)) == 3


@pytest.mark.parametrize("codec", [FakeCodec(codebooks=2), FakeCodec(codes=5000)])
def test_codes_that_do_not_fit_the_model_are_the_codecs_fault(codec):
    """A codec with other codebooks is refused at the first clip."""
    with pytest.raises(UserError, match=r"--audio_tokenizer fake: expected 3 codebooks of 1024 codes, .*--base_ckpt"):
        encode_audio(tone(1.0, 24_000).astype(np.float32), codec, LIMITS)
