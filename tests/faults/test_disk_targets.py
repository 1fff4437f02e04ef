"""Targets that are not regular files: the sink refuses the target without an open call or a wait."""

import os
import socket
from pathlib import Path

import pytest

import sinks.segment
from sinks import SinkError
from sinks.jsonl import JsonlSink
from tests.faults.writer import read_log, record


class TestTargets:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "log.jsonl"

    def refused(self, path, what):
        with pytest.raises(SinkError) as caught:
            JsonlSink(path)
        assert str(caught.value).replace(": expected a file, got ", ": ") == (
            f"jsonl: {path}: {what}. Choose another folder: --sinks console,jsonl:dir=FOLDER"
        )

    @pytest.mark.timeout(10)
    def test_fifo(self, path):
        """Fault: the target is a FIFO without a reader. Expected: refused with the kind, and no hang."""
        os.mkfifo(path)
        self.refused(path, "a FIFO (named pipe)")

    @pytest.mark.timeout(10)
    def test_fifo_that_comes_in_between(self, monkeypatch, path):
        """Fault: a FIFO replaces the file between check and open. Expected: refused, and no hang."""
        os.mkfifo(path)
        regular = Path(__file__).stat()
        monkeypatch.setattr(sinks.segment.os, "lstat", lambda path: regular)
        self.refused(path, "a FIFO (named pipe)")

    def test_folder(self, path):
        """Fault: the target is a folder. Expected: refused with the kind."""
        path.mkdir()
        self.refused(path, "a folder")

    def test_socket(self, path):
        """Fault: the target is a socket. Expected: refused with the kind."""
        with socket.socket(socket.AF_UNIX) as made:
            before = Path.cwd()
            os.chdir(path.parent)  # a socket's path must be short
            try:
                made.bind(path.name)
            finally:
                os.chdir(before)
            self.refused(path, "a socket")

    @pytest.mark.parametrize("device", ["/dev/full", "/dev/null", "/dev/zero"])
    def test_device(self, monkeypatch, device):
        """Fault: the target is a device. Expected: refused with the kind, without an open call."""
        monkeypatch.setattr(sinks.segment.os, "open", pytest.fail)
        self.refused(device, "a device")

    @pytest.mark.parametrize("target", ["there.jsonl", "missing.jsonl", "/dev/full"])
    def test_link(self, path, target):
        """Fault: the target is a link to a file, to a missing file or to a device.

        Expected: refused; the target is untouched.
        """
        there = path.parent / "there.jsonl"
        there.write_bytes(b"mine")
        path.symlink_to(target)
        self.refused(path, "a symbolic link")
        assert there.read_bytes() == b"mine"
        assert not (path.parent / "missing.jsonl").exists()

    def test_link_that_comes_in_between(self, monkeypatch, path):
        """Fault: a link replaces the file between check and open. Expected: refused, and the link is not followed."""
        there = path.parent / "there.jsonl"
        there.write_bytes(b"mine")
        path.symlink_to(there)
        regular = there.stat()
        monkeypatch.setattr(sinks.segment.os, "lstat", lambda path: regular)
        self.refused(path, "Too many levels of symbolic links")
        assert there.read_bytes() == b"mine"

    def test_file_that_comes_in_between(self, monkeypatch, path):
        """Fault: a file appears between check and creation. Expected: refused, and the file is unchanged."""
        path.write_bytes(b"theirs")
        monkeypatch.setattr(sinks.segment, "_status", lambda path: None if path.suffix else path.stat())
        self.refused(path, "File exists")
        assert path.read_bytes() == b"theirs"

    def test_linked_folder(self, tmp_path):
        """Accept a linked folder, as people move logs to another disk in this way."""
        (tmp_path / "big").mkdir()
        (tmp_path / "events").symlink_to("big")
        sink = JsonlSink(tmp_path / "events" / "log.jsonl")
        sink(record(0))
        sink.close()
        assert read_log(tmp_path / "big" / "log.jsonl").seqs == [0]
