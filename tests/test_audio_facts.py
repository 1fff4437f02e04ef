"""Facts of a clip: each fault of a recording is seen, and a sound recording has none."""

from dataclasses import asdict

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.data.audio_facts import audio_facts, content_hash

RATE = 16_000


def speech(seconds=2.0, *, rate=RATE, level=0.2, seed=0):
    """Return noise with the slow swings of speech, float32 [T]."""
    count = round(seconds * rate)
    noise = np.random.default_rng(seed).normal(size=count)
    swing = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(count) / rate)
    return (level * swing * noise / 3).astype(np.float32)


def silence(seconds, *, level=0.0, rate=RATE):
    """Return faint noise, float32 [T]."""
    return (level * np.random.default_rng(1).normal(size=round(seconds * rate))).astype(np.float32)


def facts_of(waveform, rate=RATE, **given):
    """Return the facts of one channel."""
    return audio_facts(waveform[:, None], rate, **given)


def test_facts_are_plain_numbers():
    """The index writes facts as JSON, also those of a loud recording that goes beyond full scale."""
    loud = 1.5 * np.sin(np.arange(2_400, dtype=np.float32))[:, None]
    facts = asdict(audio_facts(loud, 24_000))
    assert facts["beyond_share"] > 0
    assert {type(value) for value in facts.values()} <= {int, float, bool, str}


def test_a_sound_recording_has_no_faults():
    """Speech of a usual level is neither silent, clipped, offset nor cancelled, and begins and ends at once."""
    facts = facts_of(speech())
    assert (facts.rate, facts.channels, facts.frames, facts.promised_frames) == (RATE, 1, 2 * RATE, 2 * RATE)
    assert facts.seconds == 2.0
    assert -30 < facts.level_dbfs < -10
    assert (facts.clipped_share, facts.beyond_share, facts.cancels) == (0.0, 0.0, False)
    assert abs(facts.offset) < 0.01
    assert facts.leading_silence_s < 0.1
    assert facts.trailing_silence_s < 0.1


@pytest.mark.parametrize("waveform", [silence(1), silence(1) + np.float32(0.25), silence(1, level=1e-6)])
def test_silence_has_no_level(waveform):
    """A clip without sound has no level, with and without an offset, and is silent from end to end."""
    facts = facts_of(waveform)
    assert facts.level_dbfs is None
    assert facts.leading_silence_s == facts.trailing_silence_s == 1.0


@pytest.mark.parametrize("full_scale", [1.0, 0.3])
def test_clipping_is_flat_tops(full_scale):
    """Flat tops count at every scale, because a clipped recording may be attenuated later."""
    time = np.arange(2 * RATE) / RATE
    voice = sum(np.sin(2 * np.pi * 120 * harmonic * time + harmonic**2) for harmonic in range(1, 20)) / 3
    clipped = (np.clip(voice, -1, 1) * full_scale).astype(np.float32)
    assert facts_of(clipped).clipped_share > 0.002
    assert facts_of((voice / 20).astype(np.float32)).clipped_share == 0


@pytest.mark.parametrize("frequency", [20, 50, 100, 440])
@pytest.mark.parametrize("peak", [1.0, 0.5, 0.02])
def test_a_peak_is_not_clipping(frequency, peak):
    """The rounded peaks of a voice that touch full scale are no flat tops; nor is one sample at full scale."""
    envelope = np.hanning(2 * RATE)
    tone = peak * envelope * np.sin(2 * np.pi * frequency * np.arange(2 * RATE) / RATE)
    assert facts_of((np.round(tone * 32_767) / 32_768).astype(np.float32)).clipped_share < 5e-4


def test_samples_beyond_full_scale():
    """The share of the samples beyond -1 and 1 is counted; -1 and 1 themselves are not beyond."""
    waveform = speech()
    waveform[:2] = (1, -1)
    assert facts_of(waveform).beyond_share == 0
    waveform[:4] = (1.5, -1.25, 1, -1)
    facts = facts_of(waveform)
    assert facts.peak == 1.5
    assert facts.beyond_share == 2 / len(waveform)


def test_offset_is_that_of_the_worst_channel():
    """The mean of the channel with the largest mean is the offset, with its sign."""
    frames = np.stack([speech(), speech() - 0.25], axis=1)
    assert audio_facts(frames, RATE).offset == pytest.approx(-0.25, abs=0.01)


def test_channels_that_cancel():
    """Opposite channels cancel; equal channels do not."""
    voice = speech()
    assert audio_facts(np.stack([voice, -voice], axis=1), RATE).cancels
    assert not audio_facts(np.stack([voice, voice], axis=1), RATE).cancels


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
@pytest.mark.parametrize("level", [0.5, 0.05])
def test_silence_at_the_ends(noise, level):
    """The silence before and after the speech is measured relative to the speech, in noise as well."""
    if noise > level / 100:
        pytest.skip("speech that noise covers")
    waveform = np.concatenate([silence(1.5, level=noise), speech(level=level), silence(2.5, level=noise)])
    facts = facts_of(waveform)
    assert facts.leading_silence_s == pytest.approx(1.5, abs=0.1)
    assert facts.trailing_silence_s == pytest.approx(2.5, abs=0.1)


def test_a_click_is_no_sound():
    """A click of a few samples in the silence before the speech does not end the silence."""
    waveform = np.concatenate([silence(2), speech(), silence(1.5)])
    waveform[RATE : RATE + 20] = 0.9
    facts = facts_of(waveform)
    assert facts.leading_silence_s == pytest.approx(2, abs=0.1)
    assert facts.trailing_silence_s == pytest.approx(1.5, abs=0.1)


def test_quiet_beginning_of_speech_is_sound():
    """Speech that begins at a tenth of its later level is no silence."""
    waveform = speech(4)
    waveform[: 2 * RATE] *= np.float32(0.1)
    assert facts_of(waveform).leading_silence_s < 0.1


def test_promised_frames_are_kept():
    """The length that the header promised stands beside the length that was found."""
    facts = facts_of(speech(1), promised_frames=20_000)
    assert (facts.frames, facts.promised_frames) == (RATE, 20_000)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_hash_is_that_of_the_sound(tmp_path, subtype):
    """The hash is equal in WAV and FLAC of the same depth, whatever the file's name, tags and size."""
    voice = (np.stack([speech(seed=1), speech(seed=2)], axis=1) * 2**31).astype(np.int32)
    hashes = set()
    for name in ("a.wav", "b.flac", "c.aiff"):
        soundfile.write(tmp_path / name, voice, RATE, subtype=subtype)
        hashes.add(content_hash(soundfile.read(tmp_path / name, dtype="float32", always_2d=True)[0], RATE))
    assert len(hashes) == 1
    assert len(hashes.pop()) == 32


def test_hash_differs_where_the_sound_does():
    """One sample, the rate, the number of channels or the finest bit of floats makes another hash."""
    frames = np.round(speech() * 32_768).astype(np.float32)[:, None] / 32_768
    other = frames.copy()
    other[7] += 1 / 32_768
    finer = frames.copy()
    finer[7] += 2.0**-20
    stereo = frames.reshape(-1, 2)
    hashes = [content_hash(frames, RATE), content_hash(frames, 8_000)]
    hashes += [content_hash(item, RATE) for item in (other, finer, stereo)]
    assert len(set(hashes)) == len(hashes)
    assert content_hash(frames * np.float32(-1) * np.float32(-1), RATE) == hashes[0]


@pytest.mark.parametrize("count", [1, 2, 7, 159, 161])
def test_tiny_clips(count):
    """A clip of any length has facts."""
    facts = facts_of(speech()[:count])
    assert facts.frames == count
    assert 0 <= facts.leading_silence_s <= facts.seconds
