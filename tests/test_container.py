"""Audio files that were cut off, and healthy files with unusual headers."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.data.audio import AudioError, audio_info, load_audio

NOISE = 0.3 * np.random.default_rng(0).standard_normal(24_000)
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AIFF", "ULAW"),
    ("AU", "PCM_16"),
    ("SVX", "PCM_16"),
    ("NIST", "PCM_16"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
]
CUTS = [1, 2, 27, 1_000, 10_000]


def written(path: Path, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """Write a second of noise, and return the file's bytes."""
    soundfile.write(path, NOISE, 24_000, format=form, subtype=subtype)
    return path.read_bytes()


@pytest.mark.parametrize(("form", "subtype"), FORMATS, ids="-".join)
def test_a_file_that_was_cut_off_anywhere_is_refused(tmp_path, form, subtype):
    """A file is heard to its end or not at all, in every format and wherever the end is missing."""
    path = tmp_path / "a"
    data = written(path, form, subtype)
    assert len(load_audio(path)[0].waveform) >= 24_000
    for missing in [cut for cut in CUTS if cut < len(data) / 2] + [len(data) // 2]:
        path.write_bytes(data[:-missing])
        with pytest.raises(AudioError):
            load_audio(path)


def test_a_cut_file_names_the_missing_bytes(tmp_path):
    """The message has the header's size and the true size, before anything is decoded."""
    path = tmp_path / "a.wav"
    path.write_bytes(written(path)[:24_044])
    with pytest.raises(AudioError) as caught:
        audio_info(path)
    assert str(caught.value) == (
        "expected 48000 bytes of sound, as its header says, got 24000: the file may be cut off"
    )


def test_a_cut_ogg_says_that_the_end_is_missing(tmp_path):
    """Libsndfile finds no end in such a file and reports no error."""
    path = tmp_path / "a.ogg"
    path.write_bytes(written(path, "OGG", "VORBIS")[:-1])
    with pytest.raises(AudioError, match=r"^expected an Ogg file up to its last page, got .* may be cut off"):
        audio_info(path)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, 48_036])
def test_a_wav_file_from_a_pipe_is_heard_to_its_end(tmp_path, size, riff):
    """ffmpeg, sox and others write a placeholder where the length is unknown."""
    path = tmp_path / "a.wav"
    data = written(path)
    path.write_bytes(data[:4] + struct.pack("<I", riff) + data[8:40] + struct.pack("<I", size) + data[44:])
    assert audio_info(path) == (24_000, 24_000, 1)
    assert len(load_audio(path)[0].waveform) == 24_000


@pytest.mark.parametrize(
    ("form", "marker", "skipped", "layout", "size"),
    [
        ("AIFF", b"SSND", 4, ">I", 0),
        ("AIFF", b"SSND", 4, ">I", 0xFFFFFFFF),
        ("AU", b".snd", 8, ">I", 0),
        ("AU", b".snd", 8, ">I", 0xFFFFFFFF),
        ("W64", b"data", 16, "<Q", 2**64 - 1),
        ("W64", b"data", 16, "<Q", 2**63 - 1),
    ],
)
def test_other_formats_from_a_pipe_are_heard_to_their_end(tmp_path, form, marker, skipped, layout, size):
    """Each format has a size that means an unknown length."""
    path = tmp_path / "a"
    data = written(path, form)
    at = data.index(marker) + skipped
    path.write_bytes(data[:at] + struct.pack(layout, size) + data[at + struct.calcsize(layout) :])
    assert len(load_audio(path)[0].waveform) == 24_000


def chunk(name: bytes, content: bytes) -> bytes:
    """Make a chunk of a RIFF file."""
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def test_unusual_headers_are_healthy(tmp_path):
    """Further chunks, odd sizes, missing padding, tags in front and a wrong outer size change nothing."""
    path = tmp_path / "a.wav"
    data = written(path)
    listed = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 13) + b"Lavf60.16.100")
    healthy = {
        "a chunk in front": data[:12] + chunk(b"JUNK", bytes(27)) + data[12:],
        "a chunk behind": data + listed,
        "a cut chunk behind": data + listed[:-9],
        "rubbish behind": data + b"TAG" + bytes(125),
        "a wrong outer size": data[:4] + struct.pack("<I", 10**6) + data[8:],
        "an ID3 tag in front": b"ID3\x03\0\0\0\0\x01\x00" + bytes(128) + data,
    }
    for name, content in healthy.items():
        path.write_bytes(content)
        assert len(load_audio(path)[0].waveform) == 24_000, name
    path.write_bytes(data[:40] + struct.pack("<I", 47_999) + data[44:-1])  # an odd size without padding
    assert len(load_audio(path)[0].waveform) == 23_999


def test_an_empty_wav_file_with_further_chunks_stays_empty(tmp_path):
    """The chunks behind an empty sound are no sound."""
    path = tmp_path / "a.wav"
    data = written(path)
    path.write_bytes(data[:40] + bytes(4) + chunk(b"LIST", bytes(100)))
    with pytest.raises(AudioError, match="an empty clip"):
        load_audio(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_end_with_their_last_page(tmp_path, subtype):
    """A tag behind the last page does no harm. Of streams one after another, libsndfile would read only the first."""
    path = tmp_path / "a.ogg"
    data = written(path, "OGG", subtype)
    path.write_bytes(data + b"TAG" + bytes(125))
    assert len(load_audio(path)[0].waveform) == 24_000
    path.write_bytes(data + data)
    with pytest.raises(AudioError, match="expected an Ogg file with one stream, got streams one after another"):
        load_audio(path)


def test_a_file_that_is_written_anew_is_judged_anew(tmp_path):
    """The end of a file is looked for once, as long as the file stays as it is."""
    path = tmp_path / "a.wav"
    data = written(path)
    path.write_bytes(data[:-100])
    with pytest.raises(AudioError):
        audio_info(path)
    path.write_bytes(data)
    assert audio_info(path).length == 24_000
