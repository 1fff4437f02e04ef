"""Codes on disk, and the cache of encoded clips."""

import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.clips import ClipLimits, ClipStore
from higgs_audio_trainer.data.codes import CodeCache, load_codes
from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import UserError
from tests.samples import write_tone

CODES = np.arange(24).reshape(3, 8)


def load(path: Path) -> np.ndarray:
    """Load codes for a model of 3 codebooks of 1024 codes."""
    return load_codes(path, num_codebooks=3, num_codes=1024)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, ">i4"])
def test_codes_of_any_integer_type_are_read_from_npy(tmp_path, dtype):
    """They come as int64, in memory of their own."""
    np.save(tmp_path / "c.npy", CODES.astype(dtype))
    loaded = load(tmp_path / "c.npy")
    assert loaded.dtype == np.int64
    assert type(loaded) is np.ndarray
    assert np.array_equal(loaded, CODES)


def test_codes_in_fortran_order_are_read(tmp_path):
    """How the array lies in the file makes no difference."""
    np.save(tmp_path / "c.npy", np.asfortranarray(CODES))
    assert np.array_equal(load(tmp_path / "c.npy"), CODES)


@pytest.mark.parametrize("name", ["anything", "codes"])
def test_the_one_tensor_of_a_safetensors_file_is_taken(tmp_path, name):
    """One tensor needs no particular name."""
    save_file({name: CODES.astype(np.int32)}, tmp_path / "c.safetensors")
    assert np.array_equal(load(tmp_path / "c.safetensors"), CODES)


@pytest.mark.parametrize("name", ["codes", "audio_codes"])
def test_the_tensor_that_is_named_for_it_is_taken(tmp_path, name):
    """Beside other tensors, the codes are found by their name."""
    save_file({"a": np.zeros(3), name: CODES, "z": np.zeros(3)}, tmp_path / "c.safetensors")
    assert np.array_equal(load(tmp_path / "c.safetensors"), CODES)


def npy(array: Any) -> Callable[[Path], None]:
    """Return a function that writes any array."""
    return lambda path: np.save(path, array, allow_pickle=True)


def raw(data: bytes) -> Callable[[Path], None]:
    """Write bytes."""
    return lambda path: path.write_bytes(data) and None


def half_npy(path: Path) -> None:
    """Write codes, and cut the file off."""
    np.save(path, CODES)
    path.write_bytes(path.read_bytes()[:-10])


def huge_npy(path: Path) -> None:
    """Write a header that claims more bytes than the machine's memory."""
    np.save(path, CODES)
    path.write_bytes(path.read_bytes().replace(b"(3, 8)", b"(3, 9999999999999)").replace(b" " * 13 + b"\n", b"\n"))


def zipped(path: Path) -> None:
    """Write a zip of arrays under a wrong name."""
    with path.open("wb") as file:
        np.savez(file, CODES)


BROKEN = [
    ("a.npy", npy(CODES.astype(float)), r"an array of integers, got float64 \[3, 8\]"),
    ("a.npy", npy(CODES.astype(bool)), r"an array of integers, got bool \[3, 8\]"),
    ("a.npy", npy(CODES.astype("m8[s]")), r"an array of integers, got timedelta64\[s\] \[3, 8\]"),
    ("a.npy", npy(CODES.T), r"codes of shape \[3, frames\], got shape \[8, 3\]"),
    ("a.npy", npy(CODES[None]), r"codes of shape \[3, frames\], got shape \[1, 3, 8\]"),
    ("a.npy", npy(CODES[0]), r"codes of shape \[3, frames\], got shape \[8\]"),
    ("a.npy", npy(CODES[:, :0]), r"codes of shape \[3, frames\], got shape \[3, 0\]|readable codes, got .*empty"),
    ("a.npy", npy(CODES + 1001), "codes from 0 to 1023, got 1001 to 1024"),
    ("a.npy", npy(CODES - 1), "codes from 0 to 1023, got -1 to 22"),
    ("a.npy", npy(CODES.astype(np.uint64) + np.uint64(2**63)), "codes from 0 to 1023, got 9223372036854775808 to "),
    ("a.npy", npy(CODES.astype(object)), "readable codes, got .*Python objects"),
    ("a.npy", raw(pickle.dumps(CODES)), "readable codes, got "),
    ("a.npy", zipped, "readable codes, got "),
    ("a.npy", half_npy, "readable codes, got "),
    ("a.npy", huge_npy, "readable codes, got "),
    ("a.npy", raw(b""), "readable codes, got "),
    ("a.npy", lambda path: None, "readable codes, got .*No such file"),
    ("a.safetensors", raw(b"\x08"), "readable codes, got "),
    ("a.safetensors", raw(b"\xff" * 100), "readable codes, got "),
    ("a.safetensors", lambda path: None, "readable codes, got .*[Nn]o such file"),
    ("a.safetensors", lambda path: save_file({"a": CODES, "b": CODES}, path), r"one tensor, .*got tensors named \['a"),
    ("a.safetensors", lambda path: save_file({}, path), r"one tensor, .*got tensors named \[\]"),
    (
        "a.safetensors",
        lambda path: save_torch_file({"codes": torch.ones(3, 8, dtype=torch.bfloat16)}, path),
        "readable codes, got |an array of integers, got ",
    ),
    ("a.pt", raw(b"x"), r"codes in a .npy or .safetensors file, got 'a.pt'"),
]


@pytest.mark.parametrize(("name", "write", "message"), BROKEN, ids=[f"{name}-{m[:45]}" for name, _, m in BROKEN])
def test_codes_that_cannot_be_used_are_refused(tmp_path, name, write, message):
    """Type, shape, range, key and format are checked; a pickle is never opened."""
    write(tmp_path / name)
    with pytest.raises(AudioError) as caught:
        load(tmp_path / name)
    assert re.match(f"expected {message}", str(caught.value)), str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_of_codes_is_refused_or_still_holds_codes(tmp_path_factory, data):
    """Any change of bytes gives an `AudioError` or codes in range."""
    path = tmp_path_factory.getbasetemp() / data.draw(st.sampled_from(["damaged.npy", "damaged.safetensors"]))
    if path.suffix == ".npy":
        np.save(path, CODES)
    else:
        save_file({"codes": CODES}, path)
    content = bytearray(path.read_bytes())
    for index, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[index] = value
    path.write_bytes(content[: data.draw(st.none() | st.integers(0, len(content)))])
    try:
        loaded = load(path)
    except AudioError:
        return
    assert loaded.shape[0] == 3
    assert 0 <= loaded.min() <= loaded.max() < 1024


class FakeCodec(SimpleNamespace):
    """Encodes a clip as the mean level of each frame, and records its calls."""

    def __init__(self, fingerprint: str = "f0", codebooks: int = 3, codes: int = 1024) -> None:
        super().__init__(name="fake", fingerprint=fingerprint, sampling_rate_hz=24_000, hop_length=960)
        self.codebooks, self.codes = codebooks, codes
        self.encoded: list[int] = []

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Return the codes of a clip."""
        self.encoded.append(len(waveform))
        levels = np.abs(waveform[: len(waveform) // 960 * 960].reshape(-1, 960)).mean(axis=1)
        return np.tile((levels * (self.codes - 1)).astype(np.int64), (self.codebooks, 1))


def make_store(folder: Path, codec: Any = None, *, max_seconds: float = 60.0) -> ClipStore:
    """Make a store with a cache in a folder."""
    return ClipStore(ClipLimits(3, 1024, max_seconds), codec or FakeCodec(), folder / "codes")


def encode_all(store: ClipStore, *clips: Clip) -> list[Path]:
    """Check clips, encode the waiting clips, and return their files."""
    files = [store.check(clip) for clip in clips]
    for clip in store.waiting(files):
        store.encode(clip)
    return files


def test_a_clip_is_encoded_once_and_found_again(tmp_path):
    """Another store with the same codec finds the codes and their length."""
    clip = Clip(write_tone(tmp_path / "a.wav", 0.5, 16_000), encoded=False)
    codec = FakeCodec()
    (path,) = encode_all(make_store(tmp_path, codec), clip)
    later = make_store(tmp_path, codec)
    assert later.check(clip) == path
    assert later.waiting([path]) == []
    assert later.frames[path] == load(path).shape[1] == 12
    assert codec.encoded == [12_000], "resampled to the codec's rate, once"


def test_frames_are_promised_low_before_and_exact_after(tmp_path):
    """The length of a sample is known before the encoding."""
    clip = Clip(write_tone(tmp_path / "a.wav", 0.1, 8_000), encoded=False)
    store = make_store(tmp_path)
    path = store.check(clip)
    assert store.frames == {path: 2}
    encode_all(store, clip)
    assert store.frames == {path: load(path).shape[1]}


def test_the_same_audio_under_two_names_is_encoded_once(tmp_path):
    """The key is the content, not the path."""
    first = write_tone(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(first.read_bytes())
    codec = FakeCodec()
    clips = [Clip(tmp_path / name, encoded=False) for name in ("a.wav", "b.wav")]
    files = encode_all(make_store(tmp_path, codec), *clips)
    assert files[0] == files[1]
    assert len(codec.encoded) == 1


def test_content_stretch_and_codec_each_make_another_key(tmp_path):
    """What sounds different, or is encoded differently, never shares codes."""
    a, b = write_tone(tmp_path / "a.wav"), write_tone(tmp_path / "b.wav", hz=441)
    clips = [
        Clip(a, encoded=False),
        Clip(b, encoded=False),
        Clip(a, encoded=False, offset_s=0.1),
        Clip(a, encoded=False, duration_s=0.1),
    ]
    caches = [CodeCache(tmp_path, fingerprint) for fingerprint in ("f0", "f1")]
    assert len({cache.path(clip) for cache in caches for clip in clips}) == 8
    renamed = Clip(a, encoded=False, field="ref_audio")
    assert caches[0].path(renamed) == caches[0].path(clips[0])


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", np.zeros((3, 4)).tobytes()])
def test_a_damaged_cache_file_is_encoded_again(tmp_path, damage):
    """A damaged file in the cache is encoded again."""
    clip = Clip(write_tone(tmp_path / "a.wav"), encoded=False)
    (path,) = encode_all(make_store(tmp_path), clip)
    whole = path.read_bytes()
    path.write_bytes(damage)
    encode_all(make_store(tmp_path), clip)
    assert path.read_bytes() == whole


KILLED_WRITER = """
import sys, time
import numpy
from pathlib import Path
from higgs_audio_trainer.data.codes import CodeCache

def save_half(file, array):
    file.write(b"\\x93NUMPY half of an array")
    file.flush()
    print("half", flush=True)
    time.sleep(600)

numpy.save = save_half
CodeCache.store(Path(sys.argv[1]), numpy.zeros((3, 5), dtype=int))
"""


def test_a_writer_that_is_killed_leaves_nothing_that_is_taken_for_codes(tmp_path):
    """Only a complete file appears under the clip's name, and the next run writes the file."""
    clip = Clip(write_tone(tmp_path / "a.wav"), encoded=False)
    path = make_store(tmp_path).check(clip)
    with subprocess.Popen([sys.executable, "-c", KILLED_WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        writer.send_signal(signal.SIGKILL)
    (left,) = path.parent.iterdir()
    assert left != path
    assert left.suffix != ".npy"
    codec = FakeCodec()
    encode_all(make_store(tmp_path, codec), clip)
    assert len(codec.encoded) == 1
    assert load(path).shape == (3, 5)


def test_a_place_that_cannot_be_written_to_is_a_user_error(tmp_path):
    """The message names the setting, and nothing is left behind."""
    (tmp_path / "codes").write_text("a file")
    with pytest.raises(UserError, match=r"^--codes_dir: .*: Not a directory\. Name another folder, or free space"):
        CodeCache.store(tmp_path / "codes" / "f0" / "c.npy", CODES)


@pytest.mark.parametrize("codec", [FakeCodec(codebooks=2), FakeCodec(codes=5000)])
def test_codes_that_do_not_fit_the_model_are_the_codecs_fault(tmp_path, codec):
    """A codec with other codebooks is refused at the first clip, and no codes are stored."""
    clip = Clip(write_tone(tmp_path / "a.wav"), encoded=False)
    store = make_store(tmp_path, codec)
    with pytest.raises(UserError, match=r"--audio_tokenizer fake: expected 3 codebooks of 1024 codes, .*--base_ckpt"):
        encode_all(store, clip)
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize(
    ("seconds", "fault"),
    [
        (2.1, "expected at most 2 s (--max_seconds), got 2.10 s"),
        (0.03, "expected at least one codec frame of audio, 40 ms, got 30.0 ms"),
    ],
)
def test_a_clip_of_the_wrong_length_is_refused_before_anything_is_encoded(tmp_path, seconds, fault):
    """Too long and too short are known from the header, each time the clip is asked for."""
    clip = Clip(write_tone(tmp_path / "a.wav", seconds, 8_000), encoded=False)
    store = make_store(tmp_path, max_seconds=2)
    for _ in range(2):
        with pytest.raises(AudioError) as caught:
            store.check(clip)
        assert str(caught.value) == fault


def test_the_longest_clip_is_judged_by_its_audio_whether_encoded_or_not(tmp_path):
    """A clip just below the limit stays valid when the codec rounds its last frame up."""
    clip = Clip(write_tone(tmp_path / "a.wav", 0.99, 24_000), encoded=False)
    (path,) = encode_all(make_store(tmp_path), clip)
    np.save(path, np.zeros((3, 25), dtype=int))  # a codec that rounds up
    assert make_store(tmp_path, max_seconds=0.99).check(clip) == path
    with pytest.raises(AudioError):
        make_store(tmp_path, max_seconds=0.98).check(clip)


def test_one_frame_is_enough(tmp_path):
    """40 ms is the shortest clip, at every rate."""
    for rate in (8_000, 11_025, 44_100, 48_000):
        clip = Clip(write_tone(tmp_path / f"{rate}.wav", 0.04, rate), encoded=False)
        (path,) = encode_all(make_store(tmp_path), clip)
        assert load(path).shape == (3, 1)


def test_codes_in_place_of_audio_are_checked_and_need_no_codec(tmp_path):
    """Their length counts at 25 frames a second."""
    np.save(tmp_path / "c.npy", np.zeros((3, 51), dtype=int))
    clip = Clip(tmp_path / "c.npy", encoded=True)
    store = ClipStore(ClipLimits(3, 1024, 2.04), None, tmp_path)
    assert store.check(clip) == tmp_path / "c.npy"
    assert store.frames == {tmp_path / "c.npy": 51}
    with pytest.raises(AudioError, match=r"at most 2 s .*, got 2.04 s"):
        ClipStore(ClipLimits(3, 1024, 2.0), None, tmp_path).check(clip)


@pytest.mark.parametrize(
    ("stated_s", "seconds"),
    [(2.5, 2.5), (2.55, 2.5), (2.9, 2.5), (3.0, 2.5), (1.25, 1.25), (0.5, 0.5)],
)
def test_a_duration_without_an_offset_is_the_files_length_or_the_end_of_a_stretch(tmp_path, stated_s, seconds):
    """A duration near the length of the file is the whole file. A shorter duration is a stretch from the beginning."""
    path = write_tone(tmp_path / "a.wav", 2.5, 8_000)
    codec = FakeCodec()
    store = make_store(tmp_path, codec)
    whole = store.check(Clip(path, encoded=False))
    file = store.check(Clip(path, encoded=False, stated_s=stated_s))
    for clip in store.waiting([file]):
        store.encode(clip)
    assert codec.encoded == [seconds * 24_000]
    assert (file == whole) == (seconds == 2.5)
    assert len(store.shortened) == (seconds < 2.5)


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
        make_store(tmp_path).check(clip)
    assert str(caught.value) == fault


def test_codes_are_as_long_as_the_duration_says(tmp_path):
    """Codes of another length belong to another recording."""
    np.save(tmp_path / "c.npy", np.zeros((3, 50), dtype=int))
    store = ClipStore(ClipLimits(3, 1024, 60.0), None, tmp_path)
    for stated_s in (2.0, 2.3, 1.6, 3.0):
        store.check(Clip(tmp_path / "c.npy", encoded=True, stated_s=stated_s))
    with pytest.raises(AudioError, match=r"expected codes of 4.5 s, as the duration says, got 2.00 s"):
        store.check(Clip(tmp_path / "c.npy", encoded=True, stated_s=4.5))


def test_codes_of_stereo_are_encoded_again_after_an_older_version(tmp_path):
    """An older version stored silence for channels that cancel each other out."""
    wave = np.sin(np.arange(24_000) / 20)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1), 24_000)
    clip = Clip(tmp_path / "a.wav", encoded=False)
    CodeCache.store(CodeCache(tmp_path / "codes", "f0").path(clip), CODES)
    store = make_store(tmp_path)
    (path,) = encode_all(store, clip)
    assert load(path).max() > 100
    assert store.single_channel == [clip]


def test_a_clip_that_changes_under_the_run_ends_it_clearly(tmp_path):
    """A file replaced between check and encoding is an error, not a silent loss of a sample."""
    clip = Clip(write_tone(tmp_path / "a.wav"), encoded=False)
    store = make_store(tmp_path)
    (path,) = [store.check(clip)]
    clip.path.write_bytes(b"gone")
    with pytest.raises(UserError, match=r"a\.wav: expected audio .*The file changed after the check. Start again"):
        store.encode(clip)
    assert not path.exists()


def test_a_file_that_cannot_be_read_has_no_key(tmp_path):
    """An unreadable file is a problem of the clip."""
    with pytest.raises(AudioError, match="expected a readable file, got No such file"):
        CodeCache(tmp_path, "f0").path(Clip(tmp_path / "no.wav", encoded=False))
