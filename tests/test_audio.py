"""Audio files to waveforms."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.data.audio import AudioError, audio_info, load_audio, resample
from tests.samples import tone, write_tone

RATES = (8_000, 11_025, 16_000, 44_100, 48_000)


def loudest_hz(wave: np.ndarray, rate: int) -> float:
    """Return the loudest frequency of a wave, to the width of a bin."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(spectrum.argmax() * rate / len(wave))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_a_clip_of_any_rate_keeps_length_pitch_and_level_at_24_khz(tmp_path, rate, channels):
    """Resampling keeps the length, pitch and level of a sine."""
    path = write_tone(tmp_path / "a.wav", 0.8, rate, channels=channels)
    (wave, _), read_rate = load_audio(path)
    at_24k = resample(wave, read_rate, 24_000)
    assert (wave.dtype, wave.shape, read_rate) == (np.float32, (rate * 4 // 5,), rate)
    assert (at_24k.dtype, len(at_24k)) == (np.float32, 19_200)
    assert loudest_hz(at_24k, 24_000) == pytest.approx(440, abs=2)
    assert np.abs(at_24k[2000:-2000]).max() == pytest.approx(0.5, abs=0.01)


def test_a_rate_that_is_right_already_is_left_alone():
    """Audio at the codec's rate is not resampled."""
    wave = tone(0.1, 24_000)
    assert resample(wave, 24_000, 24_000) is wave


@pytest.mark.parametrize("rate", RATES)
def test_resampling_gives_no_fewer_samples_than_the_ratio_says(rate):
    """Resampled audio has at least the number of codec frames from the header."""
    for length in (*range(1, 200, 7), rate // 25, rate // 25 + 1, 3 * rate // 25):
        resampled = len(resample(np.zeros(length, dtype=np.float32), rate, 24_000))
        assert length * 24_000 // rate <= resampled <= length * 24_000 / rate + 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf"])
def test_every_format_of_libsndfile_is_read(tmp_path, suffix):
    """The format is libsndfile's business; ours is the same second of the same tone."""
    (wave, _), rate = load_audio(write_tone(tmp_path / f"a.{suffix}", 1.0, 16_000, channels=2))
    assert rate == 16_000
    assert len(wave) / rate == pytest.approx(1.0, abs=0.1)
    assert loudest_hz(wave, rate) == pytest.approx(440, abs=2)


def test_channels_are_averaged(tmp_path):
    """Stereo becomes the mean of its channels."""
    soundfile.write(tmp_path / "a.wav", np.tile([[0.5, -0.25]], (100, 1)), 8_000)
    (wave, _), _ = load_audio(tmp_path / "a.wav")
    assert wave == pytest.approx(np.full(100, 0.125), abs=1e-4)


def voice(seconds: float = 1.0) -> np.ndarray:
    """Make noise that gets louder and softer, float [T] at 8 kHz."""
    noise = np.random.default_rng(1).standard_normal(round(8_000 * seconds))
    return 0.1 * noise * (1.2 + np.sin(np.arange(len(noise)) / 700))


CANCELLING = {
    "opposite": lambda x: [x, -x],
    "opposite and softer": lambda x: [x, -0.8 * x],
    "opposite for half of the time": lambda x: [x, np.where(np.arange(len(x)) < len(x) / 2, x, -x)],
    "opposite pairs": lambda x: [x, -x, x, -x],
    "opposite with constant parts": lambda x: [0.1 + x, 0.1 - 0.9 * x],
}


@pytest.mark.parametrize("channels", CANCELLING.values(), ids=CANCELLING)
def test_channels_that_cancel_each_other_out_are_no_silence(tmp_path, channels):
    """The loudest channel alone is heard in place of a mean that would be nearly silent."""
    left, *others = channels(voice())
    soundfile.write(tmp_path / "a.wav", np.stack([left, *others], axis=1), 8_000, subtype="FLOAT")
    mix, _ = load_audio(tmp_path / "a.wav")
    assert mix.channel is not None
    assert np.abs(mix.waveform).std() == pytest.approx(np.abs(left).std(), rel=0.01)


MIXABLE = {
    "equal": lambda x: [x, x],
    "one silent": lambda x: [x, 0 * x],
    "unrelated": lambda x: [x, np.roll(x, 997)],
    "two speakers in turn": lambda x: [x * (np.arange(len(x)) < 4_000), x * (np.arange(len(x)) >= 4_000)],
    "slightly later": lambda x: [x, np.roll(x, 1)],
    "opposite constant parts": lambda x: [0.2 + x / 50, -0.2 + x / 50],
    "one of many opposite": lambda x: [x, x, x, -x],
    "silence": lambda x: [0 * x, 0 * x],
}


@pytest.mark.parametrize("channels", MIXABLE.values(), ids=MIXABLE)
def test_other_channels_are_averaged(tmp_path, channels):
    """Stereo becomes the mean of its channels, also where a channel is silent or the channels are unrelated."""
    frames_TC = np.stack(channels(voice()), axis=1)
    soundfile.write(tmp_path / "a.wav", frames_TC, 8_000, subtype="FLOAT")
    mix, _ = load_audio(tmp_path / "a.wav")
    assert mix.channel is None
    assert mix.waveform == pytest.approx(frames_TC.mean(axis=1), abs=1e-6)


@pytest.mark.parametrize(
    ("offset_s", "duration_s", "start", "stop"),
    [(0, None, 0, 8000), (0.25, None, 2000, 8000), (0.25, 0.5, 2000, 6000), (0.75, 9, 6000, 8000), (0, 1e300, 0, 8000)],
)
def test_a_stretch_of_a_file_is_what_lies_between_its_ends(tmp_path, offset_s, duration_s, start, stop):
    """Offset and duration are seconds of the file, and end where the file ends."""
    path = tmp_path / "a.wav"
    ramp = np.arange(8000, dtype=np.int16)
    soundfile.write(path, ramp, 8_000)
    (wave, _), _ = load_audio(path, offset_s=offset_s, duration_s=duration_s)
    assert audio_info(path, offset_s=offset_s, duration_s=duration_s) == (stop - start, 8_000, 1)
    assert np.array_equal(np.round(wave * 2**15), ramp[start:stop])


def check_fault(path: Path, expected: str, got: str, **stretch: float) -> None:
    """Check the error of an unusable file."""
    with pytest.raises(AudioError) as caught:
        load_audio(path, **stretch)
    assert caught.value.expected == expected
    assert re.search(got, caught.value.got), caught.value.got


def test_a_truncated_flac_is_refused(tmp_path):
    """An incomplete download is refused."""
    data = write_tone(tmp_path / "a.flac", 1.0).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    check_fault(tmp_path / "cut.flac", "audio that libsndfile reads", "lost sync")
    assert audio_info(tmp_path / "cut.flac") == (24_000, 24_000, 1), "its header still tells the old length"


def test_a_file_that_is_shorter_than_its_header_says_is_refused(tmp_path):
    """A truncated MP3 is refused. The decoder reports no error, but stops before the end that the header promises."""
    data = write_tone(tmp_path / "a.mp3", 2.0).read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) * 2 // 3])
    check_fault(tmp_path / "cut.mp3", "48000 samples, as its header says", r"\d+: the file may be cut off")


def test_a_flac_of_unknown_length_is_refused(tmp_path):
    """A FLAC file from a pipe has no length in the header, and libsndfile cannot read such a file."""
    data = bytearray(write_tone(tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO with the number of samples
    data[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(data)
    check_fault(tmp_path / "piped.flac", "a file with its length in the header", "unknown length")


@pytest.mark.parametrize("stretch", [{}, {"offset_s": 1.0}, {"duration_s": 0.0}])
def test_an_empty_clip_is_refused(tmp_path, stretch):
    """A file without samples, and a stretch without any, are not silence."""
    path = write_tone(tmp_path / "a.wav", 0.5 if stretch else 0.0)
    check_fault(path, "at least one sample of audio", "an empty clip", **stretch)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    """A single NaN in a channel is enough."""
    wave = tone(0.1, 8_000, channels=2)
    wave[7, 1] = value
    soundfile.write(tmp_path / "a.wav", wave, 8_000, subtype="FLOAT")
    check_fault(tmp_path / "a.wav", "finite samples", "NaN or infinity")


@pytest.mark.parametrize(
    ("name", "content", "got"),
    [
        ("a.wav", b"hello, I am a text", "Format not recognised"),
        ("a.wav", b"", "Format not recognised|empty"),
        ("a.flac", b"fLaC" + bytes(50), "malformed|unimplemented"),
        ("a.raw", bytes(100), "samplerate"),
    ],
)
def test_what_is_not_audio_is_refused(tmp_path, name, content, got):
    """Any failure of libsndfile is a problem of the clip."""
    (tmp_path / name).write_bytes(content)
    check_fault(tmp_path / name, "audio that libsndfile reads", got)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    """A clip may vanish after the manifest was read."""
    check_fault(tmp_path / "no.wav", "audio that libsndfile reads", "No such file or directory")
