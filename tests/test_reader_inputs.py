"""Every kind of input is read alike: compressed, whole or cut off, from a pipe, from several paths."""

import gzip
import io
import os
import sys
import threading
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.logs.gaps import gaps
from higgs_audio_trainer.logs.source import zstd
from higgs_audio_trainer.logs.validation.validate import validate
from tests.logs import read
from tests.test_reader import dump, file_of, seqs
from tests.test_validate import a_run

RECORDS = a_run()
LINES = dump(RECORDS)
COMPRESSED = {".gz": gzip.compress(LINES, mtime=0), ".zst": zstd.compress(LINES)}


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
    other.write_bytes(COMPRESSED[suffix] * 2)
    assert len(list(read(other))) >= len(RECORDS)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_files_that_are_cut_off(suffix, tmp_path):
    """What can be read is; the rest is one fault, and no exception."""
    path = tmp_path / f"x.jsonl{suffix}"
    data = COMPRESSED[suffix]
    for size in range(4, len(data) - 1, 7):
        path.write_bytes(data[:size])
        faults = []
        found = list(read(path, on_fault=faults.append))
        assert found == RECORDS[: len(found)]
        assert faults
        assert validate(path)
        assert any(finding.severity == "error" for finding in validate(path))


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
