"""Every kind of input is read alike: compressed, whole or cut off, from a pipe, from several paths."""

import fcntl
import gzip
import io
import os
import struct
import sys
import termios
import threading
import zlib
from functools import partial
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.gaps import gaps
from higgs_audio_trainer.logs.source import zstd
from higgs_audio_trainer.logs.validation.validate import validate
from tests.builders import run_start, train_step
from tests.logs import read
from tests.test_reader import dump, file_of, records_of, seqs, write
from tests.test_validate import a_run

RECORDS = a_run()
LINES = dump(RECORDS)
CHECKSUM = {zstd.CompressionParameter.checksum_flag: True}
COMPRESSED = {".gz": gzip.compress(LINES, mtime=0), ".zst": zstd.compress(LINES, options=CHECKSUM)}

MORE = dump([record | {"rank": 1} for record in RECORDS])
MORE_COMPRESSED = {".gz": gzip.compress(MORE, mtime=0), ".zst": zstd.compress(MORE)}
DECOMPRESSORS = {".gz": lambda: zlib.decompressobj(wbits=31), ".zst": zstd.ZstdDecompressor}
SKIPPABLE_FRAME = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_files(suffix, tmp_path):
    """By any name, in a folder and alone; also several that were joined."""
    path = tmp_path / f"rank00000-attempt000.jsonl{suffix}"
    path.write_bytes(COMPRESSED[suffix])
    other = tmp_path / "other.log"
    other.write_bytes(COMPRESSED[suffix])
    for place in (tmp_path, path, other):
        assert list(read(place)) == RECORDS
        assert list(validate(place)) == []
    other.write_bytes(COMPRESSED[suffix] + MORE_COMPRESSED[suffix])
    whole = tmp_path / "whole.log"
    whole.write_bytes(LINES + MORE)
    assert list(read(other)) == list(read(whole))


def test_zstd_frames_that_are_to_be_skipped(tmp_path):
    """At the beginning, between frames and at the end."""
    path = tmp_path / "x.jsonl"
    frames = (SKIPPABLE_FRAME, COMPRESSED[".zst"], SKIPPABLE_FRAME, MORE_COMPRESSED[".zst"], SKIPPABLE_FRAME)
    path.write_bytes(b"".join(frames))
    faults = []
    assert len(list(read(path, on_problem=faults.append))) == 2 * len(RECORDS)
    assert faults == []


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_files_that_are_cut_off(suffix, tmp_path):
    """Each line that a decompressor gets out of what is there is read; the rest is one fault, and no exception."""
    path = tmp_path / f"x.jsonl{suffix}"
    data = COMPRESSED[suffix]
    sizes = set()
    for size in (*range(4, len(data) - 1, 7), *range(len(data) - 12, len(data))):
        path.write_bytes(data[:size])
        faults = []
        found = list(read(path, on_problem=faults.append))
        expected = DECOMPRESSORS[suffix]().decompress(data[:size]).count(b"\n")
        assert found == RECORDS[:expected]
        assert len(faults) == 1
        assert any(finding.severity == "error" for finding in validate(path))
        sizes.add(expected)
    assert len(RECORDS) in sizes


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_what_stands_before_damage_is_read(suffix, tmp_path):
    """In a log of several buffers, and where the checksum alone is wrong."""
    lines = dump([record | {"seq": seq} for seq in range(2000) for record in RECORDS[1:2]])
    new = {".gz": partial(gzip.compress, mtime=0), ".zst": partial(zstd.compress, options=CHECKSUM)}[suffix]
    data = bytearray(new(lines))
    place = len(data) - (8 if suffix == ".gz" else 4)
    data[place] ^= 0xFF
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    faults = []
    assert seqs(read(path, on_problem=faults.append)) == list(range(2000))
    assert len(faults) == 1


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_the_end_of_a_damaged_attempt_counts(suffix, tmp_path):
    """How far a cut-off attempt came decides on what is shown of those before it, as in a file that is whole."""
    first = [run_start(), *[train_step(step=step) for step in range(1, 9)]]
    write(tmp_path, records_of(first, attempt=0))
    again = records_of([run_start(resumed_from_step=2), train_step(step=3), train_step(step=4)], attempt=1)
    compress = gzip.compress if suffix == ".gz" else zstd.compress
    data = compress(dump(again))
    (tmp_path / f"rank00000-attempt001.jsonl{suffix}").write_bytes(data[:-1] if suffix == ".gz" else data + data[:9])
    steps = [(record["attempt"], record["step"]) for record in read(tmp_path) if "step" in record]
    assert steps[:4] == [(0, 1), (0, 2), (1, 3), (1, 4)]


@settings(max_examples=100, deadline=None, phases=[Phase.generate])
@given(st.sampled_from([*COMPRESSED.values()]), st.integers(0, 10**6), st.integers(0, 255), st.binary(max_size=9))
def test_damaged_compressed_files_raise_nothing(data, position, value, tail):
    """Whichever byte is another, and whatever follows."""
    damaged = bytearray(data)
    damaged[position % len(data)] = value
    with TemporaryDirectory() as folder:
        path = file_of(folder)
        path.write_bytes(bytes(damaged) + tail)
        list(read(folder))
        list(validate(folder))
        gaps(folder)


@pytest.mark.parametrize("data", [LINES, *COMPRESSED.values()])
def test_standard_input(data, monkeypatch):
    """`-`, compressed or not."""
    for use in (read, validate):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
        assert list(use("-")) == (RECORDS if use is read else [])


@pytest.mark.parametrize("data", [LINES, *COMPRESSED.values(), b"", b"{"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_pipe_that_gives_little_at_a_time(data, size, tmp_path):
    """What it holds is known all the same."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def give():
        with path.open("wb", buffering=0) as pipe:
            for place in range(0, 9, size):
                if data[place : place + size]:
                    pipe.write(data[place : place + size])
                    while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"1234"))[0]:
                        os.sched_yield()
            pipe.write(data[place + size :])

    writer = threading.Thread(target=give)
    writer.start()
    assert list(read(path)) == (RECORDS if len(data) > 1 else [])
    writer.join()


def test_a_closed_standard_input(monkeypatch):
    """It is no log."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="a closed standard input"):
        list(read("-"))


def test_a_file_that_is_called_like_standard_input(tmp_path, monkeypatch):
    """`./-` is a file."""
    (tmp_path / "-").write_bytes(LINES)
    monkeypatch.chdir(tmp_path)
    assert list(read("./-")) == RECORDS
    assert list(validate("./-")) == []


def test_a_name_that_no_file_can_have():
    """One with a null character is the user's error."""
    for use in (read, validate):
        with pytest.raises(UserError, match="null character"):
            list(use("a\0b"))


def test_two_files_that_say_to_be_the_same(tmp_path):
    """None of them is passed over in silence."""
    file_of(tmp_path).write_bytes(LINES)
    (tmp_path / "rank0-attempt0.jsonl").write_bytes(LINES)
    for paths in ([tmp_path], [*tmp_path.iterdir()]):
        with pytest.raises(UserError, match=r"expected one file of rank 0, .*, got rank0"):
            list(read(*paths))
    assert list(read(file_of(tmp_path))) == RECORDS


def test_a_named_pipe(tmp_path):
    """It is read once, from its beginning to its end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(LINES,))
    writer.start()
    assert list(read(path)) == RECORDS
    writer.join()


def test_files_of_one_folder_are_what_the_folder_is(tmp_path):
    """As a shell's pattern names them."""
    for rank in range(2):
        events = [record | {"rank": rank} for record in RECORDS]
        file_of(tmp_path, rank).write_bytes(dump(events))
    assert list(read(*sorted(tmp_path.glob("*.jsonl")))) == list(read(tmp_path))


def test_several_logs_are_read_one_after_the_other(tmp_path):
    """In the order of the paths."""
    for name in "ba":
        (tmp_path / name).mkdir()
        file_of(tmp_path / name).write_bytes(dump([record | {"host": name} for record in RECORDS]))
    assert [record["host"] for record in read(tmp_path / "b", tmp_path / "a")] == ["b"] * 6 + ["a"] * 6


def test_a_file_beside_its_compressed_copy_is_read_once(tmp_path):
    """The one that is not compressed."""
    file_of(tmp_path).write_bytes(dump(RECORDS[:2]))
    (tmp_path / "rank00000-attempt000.jsonl.gz").write_bytes(COMPRESSED[".gz"])
    assert seqs(read(tmp_path)) == [0, 1]
