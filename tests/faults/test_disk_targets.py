"""Targets that are no file: refused, never opened, never waited for."""

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
        assert str(caught.value) == (
            f"jsonl: expected a file to append to, got {what} at {path}. "
            "Choose another folder: --sinks console,jsonl:dir=FOLDER"
        )

    @pytest.mark.timeout(10)
    def test_fifo(self, path):
        """Fault: the target is a FIFO that nobody reads. Expected: refused with its kind, and no hang."""
        os.mkfifo(path)
        self.refused(path, "a FIFO (named pipe)")

    @pytest.mark.timeout(10)
    def test_fifo_that_comes_in_between(self, monkeypatch, path):
        """Fault: a FIFO takes the file's place between the look and the opening. Expected: refused, and no hang."""
        os.mkfifo(path)
        regular = Path(__file__).stat()
        monkeypatch.setattr(sinks.segment.os, "lstat", lambda path: regular)
        self.refused(path, "a FIFO (named pipe)")

    def test_folder(self, path):
        """Fault: the target is a folder. Expected: refused with its kind."""
        path.mkdir()
        self.refused(path, "a folder")

    def test_socket(self, path):
        """Fault: the target is a socket. Expected: refused with its kind."""
        with socket.socket(socket.AF_UNIX) as made:
            before = Path.cwd()
            os.chdir(path.parent)  # a socket's path may not be long
            try:
                made.bind(path.name)
            finally:
                os.chdir(before)
            self.refused(path, "a socket")

    @pytest.mark.parametrize("device", ["/dev/full", "/dev/null", "/dev/zero"])
    def test_device(self, monkeypatch, device):
        """Fault: the target is a device. Expected: refused with its kind; it is not even opened."""
        monkeypatch.setattr(sinks.segment.os, "open", pytest.fail)
        self.refused(device, "a device")

    @pytest.mark.parametrize("target", ["there.jsonl", "missing.jsonl", "/dev/full"])
    def test_link(self, path, target):
        """Fault: a link: to a file, dangling, to a device. Expected: refused; nothing behind it is touched."""
        there = path.parent / "there.jsonl"
        there.write_bytes(b"mine")
        path.symlink_to(target)
        self.refused(path, "a symbolic link")
        assert there.read_bytes() == b"mine"
        assert not (path.parent / "missing.jsonl").exists()

    def test_link_that_comes_in_between(self, monkeypatch, path):
        """Fault: a link takes the file's place between the look and the opening. Expected: refused, not followed."""
        there = path.parent / "there.jsonl"
        there.write_bytes(b"mine")
        path.symlink_to(there)
        regular = there.stat()
        monkeypatch.setattr(sinks.segment.os, "lstat", lambda path: regular)
        self.refused(path, "Too many levels of symbolic links")
        assert there.read_bytes() == b"mine"

    def test_file_that_comes_in_between(self, monkeypatch, path):
        """Fault: a file comes there between the look and the making. Expected: refused, and not written to."""
        path.write_bytes(b"theirs")
        monkeypatch.setattr(sinks.segment, "_status", lambda path: None if path.suffix else path.stat())
        self.refused(path, "File exists")
        assert path.read_bytes() == b"theirs"

    def test_linked_folder(self, tmp_path):
        """A folder may be a link: people put logs on another disk that way."""
        (tmp_path / "big").mkdir()
        (tmp_path / "events").symlink_to("big")
        sink = JsonlSink(tmp_path / "events" / "log.jsonl")
        sink(record(0))
        sink.close()
        assert read_log(tmp_path / "big" / "log.jsonl").seqs == [0]
