"""Files and folders that are deleted, renamed or replaced under the writer."""

import errno
import os
import shutil

import pytest

import sinks.segment
from sinks import SinkError
from sinks.jsonl import JsonlSink
from tests.builders import context
from tests.faults.writer import Caller, Clock, check, line, record, segments


class Log:
    """Log with two records in a separate folder."""

    def __init__(self, folder):
        self.folder = folder / "events"
        self.first = self.folder / "rank00000-attempt000.jsonl"
        self.second = self.folder / "rank00000-attempt000.segment001.jsonl"
        self.said = []
        self.clock = Clock()
        self.sink = JsonlSink(self.first, say=self.said.append, clock=self.clock)
        self.caller = Caller(self.sink)
        self.caller("run_start")
        self.caller()
        self.begun = line(record(0, "run_start")) + line(record(1))

    def goes_on(self, why):
        """Write two more records, and check the new segment and the message."""
        self.caller()
        self.caller()
        self.sink.close()
        assert self.caller.lost == []
        assert self.second.read_bytes() == line(record(0, "run_start")) + line(record(2)) + line(record(3))
        assert self.second.stat().st_mode & 0o777 == 0o600
        assert self.said == [f"higgs-audio-trainer: {self.first} {why}; the log continues in {self.second}"]


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path)
    yield made
    made.sink.close()


def test_deleted(log):
    """Fault: the file is deleted.

    Expected: a new segment starts with run_start, and a single message reports the segment.
    """
    log.first.unlink()
    log.goes_on("was deleted or renamed")
    assert not log.first.exists()


def test_renamed(log, tmp_path):
    """Fault: the file is renamed. Expected: a new segment; the renamed file is unchanged."""
    log.first.rename(tmp_path / "kept")
    log.goes_on("was deleted or renamed")
    assert (tmp_path / "kept").read_bytes() == log.begun
    check(log.caller, tmp_path / "kept", log.second)


def test_replaced_by_a_file(log):
    """Fault: another file replaces the log's file. Expected: a new segment; the other file is unchanged."""
    log.first.unlink()
    log.first.write_bytes(b"theirs")
    log.goes_on("was replaced")
    assert log.first.read_bytes() == b"theirs"


@pytest.mark.parametrize("target", ["there", "missing"])
def test_replaced_by_a_link(log, tmp_path, target):
    """Fault: a link replaces the file. Expected: a new segment; the link's target is untouched."""
    (tmp_path / "there").write_bytes(b"theirs")
    log.first.unlink()
    log.first.symlink_to(tmp_path / target)
    log.goes_on("was replaced")
    assert (tmp_path / "there").read_bytes() == b"theirs"
    assert not (tmp_path / "missing").exists()


def test_replaced_by_a_link_to_itself(log, tmp_path):
    """Fault: the file is moved and replaced by a link to the file, as people do when a disk fills up.

    Expected: a new segment, as the sink never writes through a link.
    """
    log.first.rename(tmp_path / "moved")
    log.first.symlink_to(tmp_path / "moved")
    log.goes_on("was replaced")
    assert (tmp_path / "moved").read_bytes() == log.begun


def test_replaced_by_a_folder(log):
    """Fault: a folder replaces the file. Expected: a new segment."""
    log.first.unlink()
    log.first.mkdir()
    log.goes_on("was replaced")


def test_what_has_the_next_name_is_passed_over(log):
    """Fault: a link has the next segment's name.

    Expected: the sink takes the name after and does not follow the link.
    """
    log.first.unlink()
    log.second.symlink_to(log.folder / "trap")
    log.caller()
    log.sink.close()
    assert log.sink.path.name == "rank00000-attempt000.segment002.jsonl"
    assert not (log.folder / "trap").exists()


def test_folder_deleted(log):
    """Fault: the whole folder is deleted. Expected: the sink recreates the folder with a new segment."""
    shutil.rmtree(log.folder)
    log.goes_on("was deleted or renamed")


def test_folder_renamed(log, tmp_path):
    """Fault: the folder is renamed. Expected: the sink creates the folder again; the renamed folder is unchanged."""
    log.folder.rename(tmp_path / "kept")
    log.goes_on("was deleted or renamed")
    assert (tmp_path / "kept" / log.first.name).read_bytes() == log.begun


def test_folder_replaced_by_a_link(log, tmp_path):
    """Fault: the folder is moved and replaced by a link. Expected: the log continues in the same file."""
    log.folder.rename(tmp_path / "big")
    log.folder.symlink_to(tmp_path / "big")
    log.caller()
    log.sink.close()
    assert log.said == []
    assert check(log.caller, log.first).torn == []


def test_folder_replaced_by_a_file(log):
    """Fault: a file replaces the folder. Expected: records count as lost; without the file, the log continues."""
    shutil.rmtree(log.folder)
    log.folder.write_bytes(b"theirs")
    for _ in range(3):
        log.caller()
        log.clock.now += 10
    assert log.folder.read_bytes() == b"theirs"
    log.folder.unlink()
    log.caller()
    log.sink.close()
    assert (log.caller.lost, set(log.caller.errnos)) == ([2, 3, 4], {errno.EEXIST})
    assert log.second.read_bytes() == line(record(0, "run_start")) + line(record(5))


def test_renamed_and_brought_back_while_it_failed(log, tmp_path):
    """Fault: the folder is unusable for a while, then restored. Expected: the log continues in the same file."""
    log.folder.rename(tmp_path / "kept")
    log.folder.write_bytes(b"")
    log.caller()
    log.folder.unlink()
    (tmp_path / "kept").rename(log.folder)
    log.caller()
    log.sink.close()
    assert log.caller.lost == [2]
    assert check(log.caller, log.first).torn == []


def test_deleted_each_time(log):
    """Fault: every segment is deleted at once. Expected: no error; each record gets a new segment."""
    for number in range(1, 6):
        log.sink.path.unlink()
        assert log.caller()
        assert log.sink.path.name == "rank00000-attempt000.segment001.jsonl"
        assert len(log.said) == number
    log.sink.close()


def test_replaced_between_the_check_and_the_reopening(log, tmp_path, monkeypatch):
    """Fault: a write fails, and another file replaces the log's file just before the sink opens the file again.

    Expected: the other file is unchanged. The record counts as lost, and the next record starts a new segment.
    """
    with monkeypatch.context() as patch:
        patch.setattr(sinks.segment.os, "write", lambda descriptor, data: 0)
        assert not log.caller()
    monkeypatch.setattr("sinks.jsonl._LOST_FILE", frozenset())  # lets the sink continue in the same file
    log.first.rename(tmp_path / "kept")
    log.first.write_bytes(b"theirs")
    with monkeypatch.context() as patch:
        patch.setattr(sinks.segment.Segment, "check", lambda self: None)
        assert not log.caller()
    log.clock.now += 10
    assert log.caller()
    log.sink.close()
    assert log.caller.errnos == [errno.EIO, errno.ESTALE]
    assert log.first.read_bytes() == b"theirs"
    check(log.caller, tmp_path / "kept", log.second)


def test_descriptor_closed_by_another(log):
    """Fault: other code closes the descriptor, and another file gets the descriptor's number.

    Expected: the log continues in another segment with a message. The other file keeps the content and stays open.
    """
    number = log.sink._segment._fd
    weights = log.folder / "weights"
    opened = os.open(weights, os.O_RDWR | os.O_CREAT)
    other = os.dup2(opened, number)  # closes the log's descriptor; a lower number may be free
    os.close(opened)
    os.write(other, b"weights")
    assert log.caller()
    assert log.caller()
    log.sink.close()
    os.close(other)
    assert weights.read_bytes() == b"weights"
    assert [text.count("was closed by other code") for text in log.said] == [1]
    assert len(segments(log.folder)) == 2


def test_a_file_that_others_could_read(tmp_path):
    """Fault: the file exists and is readable for all. Expected: mode 0600 before the first line."""
    path = tmp_path / "a.jsonl"
    path.touch(0o666)
    path.chmod(0o666)
    sink = JsonlSink(path)
    assert path.stat().st_mode & 0o777 == 0o600
    sink.close()


def test_two_runs_that_find_the_same_empty_file(tmp_path):
    """Fault: a second run opens the empty file before the first run writes. Expected: the second run is refused."""
    [(_, first)] = sinks.build("jsonl", context(tmp_path))
    with pytest.raises(SinkError, match=r"expected a new file, got .*another run"):
        sinks.build("jsonl", context(tmp_path))
    first.close()


def test_the_process_goes_elsewhere(tmp_path, monkeypatch):
    """Fault: the log's path is relative, and the process changes the working directory. Expected: no difference."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    said = []
    sink = JsonlSink("a.jsonl", say=said.append)
    sink({"event": "x"})
    monkeypatch.chdir("elsewhere")
    sink({"event": "x"})
    sink.close()
    assert (said, (tmp_path / "a.jsonl").read_bytes()) == ([], b'{"event":"x"}\n' * 2)


def test_nothing_is_said_or_moved_without_a_fault(log):
    """Fault: no fault. Expected: a single file and no message."""
    for _ in range(100):
        log.caller()
    log.sink.close()
    assert (segments(log.folder), log.said) == ([log.first], [])
