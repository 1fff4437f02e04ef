"""Audio of MP4, WebM and AAC files, by ffmpeg or torchcodec."""

import os
import shutil
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from higgs_audio_trainer.data import media_file
from higgs_audio_trainer.data.audio import AudioError, AudioInfo, audio_info, load_audio
from higgs_audio_trainer.data.clips import ClipLimits, check_audio, decode_audio, encode_audio
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.sample import Clip
from tests.samples import write_tone

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None and "CI" not in os.environ, reason="ffmpeg is not installed; CI installs it"
)
SUFFIXES = ("m4a", "mp4", "aac", "webm", "mka", "wma")
RATE = 16_000


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Forget decoded files and found decoders between tests, and play a machine without torchcodec."""
    monkeypatch.setattr(media_file, "_torchcodec", lambda: None)
    for function in (media_file._whole, media_file._size):
        function.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Encode two seconds of a tone with two channels, in each format."""
    folder = tmp_path_factory.mktemp("media")
    source = write_tone(folder / "tone.wav", 2.0, RATE, channels=2)
    for suffix in SUFFIXES:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", source, folder / f"tone.{suffix}"]
        subprocess.run(command, check=True)
    return {suffix: folder / f"tone.{suffix}" for suffix in SUFFIXES}


@needs_ffmpeg
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_tone_is_read(files, suffix):
    """Length, rate and channels of the header of what is decoded are those of the samples, which are the tone."""
    info = audio_info(files[suffix])
    (wave, _), rate = load_audio(files[suffix])
    assert info == AudioInfo(len(wave), rate, 2)
    assert wave.dtype == np.float32
    assert info.seconds == pytest.approx(2.0, abs=0.15)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    assert spectrum.argmax() * rate / len(wave) == pytest.approx(440, abs=2)
    assert np.abs(wave[rate // 2 : rate]).max() == pytest.approx(0.5, abs=0.05)


@needs_ffmpeg
@pytest.mark.parametrize("small", [0, media_file._SMALL], ids=["long recording", "short recording"])
@pytest.mark.parametrize("suffix", ["m4a", "webm"])
def test_a_stretch_is_that_of_the_whole(files, suffix, small, monkeypatch):
    """Offset and duration are exact to the sample, whether a file is decoded once or once for each stretch."""
    monkeypatch.setattr(media_file, "_SMALL", small)
    (whole, _), rate = load_audio(files[suffix])
    (stretch, _), _ = load_audio(files[suffix], offset_s=0.31, duration_s=0.77)
    start = round(0.31 * rate)
    assert np.array_equal(stretch, whole[start : start + round(0.77 * rate)])
    assert audio_info(files[suffix], offset_s=0.31, duration_s=0.77) == AudioInfo(len(stretch), rate, 2)
    with pytest.raises(AudioError, match="expected at least one sample of audio, got an empty clip"):
        load_audio(files[suffix], offset_s=9.0)


@needs_ffmpeg
def test_a_short_file_is_decoded_once(files, monkeypatch):
    """The length of a file is known by decoding, and the samples are there then."""
    started = []
    run = subprocess.run
    monkeypatch.setattr(media_file.subprocess, "run", lambda *a, **k: started.append(a) or run(*a, **k))
    audio_info(files["m4a"])
    load_audio(files["m4a"], offset_s=0.5)
    assert len(started) == 1


@needs_ffmpeg
@pytest.mark.parametrize("name", ["-y.m4a", "a: b.m4a", "http:x.m4a", "'$(touch x)'.m4a", "concat:a|b.m4a", "%d.m4a"])
def test_any_name_is_a_file(files, tmp_path, monkeypatch, name):
    """No name is an option, an address, a pattern or a command."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(files["m4a"], name)
    path = (tmp_path / name).relative_to(tmp_path)
    assert audio_info(path).channels == 2
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "got"),
    [("m4a", "moov atom not found"), ("webm", "File ended prematurely"), ("aac", ".*Input buffer exhausted")],
)
def test_a_file_that_was_cut_off_is_refused(files, tmp_path, suffix, got):
    """The end is missing, and ffmpeg's reason is part of the message."""
    path = tmp_path / f"cut.{suffix}"
    content = files[suffix].read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(AudioError, match=f"^expected audio that ffmpeg decodes without errors, got {got}"):
        load_audio(path)


@needs_ffmpeg
def test_a_film_without_sound_is_refused(tmp_path):
    """A file without a track of audio has no clip."""
    path = tmp_path / "silent.mp4"
    film = ["-f", "lavfi", "-i", "color=size=16x16:duration=0.1", path]
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", *film], check=True)
    with pytest.raises(AudioError, match="expected audio that ffmpeg decodes without errors, got Stream map"):
        audio_info(path)


def test_without_a_decoder_the_message_says_what_to_install(tmp_path, monkeypatch):
    """The format is named, and both decoders."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\x00\x00\x00\x1cftypM4A \x00\x00\x02\x00")
    with pytest.raises(AudioError) as caught:
        audio_info(path)
    assert str(caught.value) == (
        "expected torchcodec or the program ffmpeg, which decode MP4 audio, got neither: install one of them "
        "(apt-get install ffmpeg, or pip install torchcodec)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"no audio", "expected audio that libsndfile reads, got Format not recognised"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "expected audio that libsndfile reads, got Format not recognised"),
    ],
)
def test_other_files_are_not_given_to_a_decoder(tmp_path, text, message):
    """A text or a playlist, which may name other files, is no audio."""
    path = tmp_path / "a.m4a"
    path.write_bytes(text)
    with pytest.raises(AudioError, match=f"^{message}$"):
        audio_info(path)


def playing_torchcodec(monkeypatch, decoder):
    """Install a module with this decoder as torchcodec."""
    monkeypatch.undo()
    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.AudioDecoder = decoder
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    media_file._torchcodec.cache_clear()


def test_torchcodec_is_preferred(tmp_path, monkeypatch):
    """Torchcodec decodes without a process; its samples are channel by channel."""
    data = torch.arange(6_000, dtype=torch.float32).reshape(2, 3_000) / 6_000
    asked = []

    def decoder(source):
        asked.append(source)
        return SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=data, sample_rate=1_000))

    playing_torchcodec(monkeypatch, decoder)
    path = tmp_path / "a.webm"
    path.write_bytes(b"\x1aE\xdf\xa3 and more")
    try:
        assert audio_info(path) == AudioInfo(3_000, 1_000, 2)
        (stretch, _), rate = load_audio(path, offset_s=1.0, duration_s=0.5)
    finally:
        media_file._torchcodec.cache_clear()
    assert rate == 1_000
    np.testing.assert_allclose(stretch, data.mean(0)[1_000:1_500], atol=1e-6)
    assert asked == [str(path)]


def test_an_error_of_torchcodec_is_an_audio_error(tmp_path, monkeypatch):
    """The first line of its message is the reason."""

    def decoder(source):
        raise RuntimeError("Could not open input file\nframe #0")

    playing_torchcodec(monkeypatch, decoder)
    path = tmp_path / "a.webm"
    path.write_bytes(b"\x1aE\xdf\xa3 and more")
    try:
        with pytest.raises(AudioError, match=r"that torchcodec decodes, got Could not open input file$"):
            audio_info(path)
    finally:
        media_file._torchcodec.cache_clear()


@needs_ffmpeg
def test_a_clip_is_encoded(files, tiny, tmp_path):
    """The codes of an m4a file are those of its samples in a WAV file."""
    (wave, _), rate = load_audio(files["m4a"])
    soundfile.write(tmp_path / "same.wav", wave, rate, subtype="FLOAT")
    limits, codec = ClipLimits(8, 1024, 60.0), Codec(str(tiny.codec_dir))
    codes = []
    for path in (files["m4a"], tmp_path / "same.wav"):
        checked = check_audio(Clip(path, encoded=False), limits, codec)
        codes.append(encode_audio(decode_audio(checked.clip, codec.sampling_rate_hz).waveform, codec, limits))
    assert np.array_equal(*codes)
