"""Disks that do not keep what they were told to keep."""

import errno
import os
from pathlib import Path

import pytest

import sinks.segment
from sinks.jsonl import JsonlSink
from tests.faults.writer import Caller, Clock, check, line, read_log, record, segments


class TestSync:
    @pytest.fixture
    def broken(self, monkeypatch):
        """Let the next syncs of files fail; return the descriptors they were asked of."""
        state = {"fail": 0, "files": [], "errno": errno.EIO}
        fsync = os.fsync

        def fail(descriptor):
            status = os.fstat(descriptor)
            state["files"].append((descriptor, status.st_ino))
            if state["fail"]:
                state["fail"] -= 1
                raise OSError(state["errno"], os.strerror(state["errno"]))
            fsync(descriptor)

        monkeypatch.setattr(sinks.segment.os, "fsync", fail)
        return state

    @pytest.mark.parametrize("durability", ["checkpoint", "record"])
    def test_fails_once(self, tmp_path, broken, durability):
        """Fault: the sync of a checkpoint fails.

        Expected: it is never asked of that descriptor again; the checkpoint is written into a new segment and synced
        there; one line says so.
        """
        said = []
        sink = JsonlSink(tmp_path / "a.jsonl", durability=durability, say=said.append)
        caller = Caller(sink)
        caller("run_start")
        caller()
        broken["fail"] = 1
        spoiled = (tmp_path / "a.jsonl").stat().st_ino
        before = len(broken["files"])
        caller("checkpoint")
        asked = [inode for _, inode in broken["files"][before:]]
        assert asked.count(spoiled) == 1
        sink.close()
        assert caller.lost == []
        again = line(record(0, "run_start")) + line(record(2, "checkpoint"))
        assert segments(tmp_path)[1].read_bytes() == again
        assert [inode for _, inode in broken["files"][before:]].count(spoiled) == 1
        check(caller, *segments(tmp_path))
        assert said == [
            (
                f"higgs-audio-trainer: {tmp_path / 'a.jsonl'} could not be synced (Input/output error); a power "
                f"failure may lose lines since the last sync; the log continues in {tmp_path / 'a.segment001.jsonl'}"
            )
        ]

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
    def test_fails_in_the_new_segment_too(self, tmp_path, broken, number):
        """Fault: a sync fails, and so does that of the segment begun for it, as where a quota is checked late.

        Expected: it raises, though the line is there; the next record goes to a third file: neither is trusted again.
        """
        broken["errno"] = number
        sink = JsonlSink(tmp_path / "a.jsonl", durability="record", say=lambda text: None)
        caller = Caller(sink)
        caller("run_start")
        broken["fail"] = 2
        assert not caller()
        assert caller()
        sink.close()
        assert caller.errnos == [number]
        third = line(record(0, "run_start")) + line(record(2))
        assert [path.name for path in segments(tmp_path)] == ["a.jsonl", "a.segment001.jsonl", "a.segment002.jsonl"]
        assert segments(tmp_path)[2].read_bytes() == third

    def test_fails_for_ever(self, tmp_path, broken):
        """Fault: every sync fails.

        Expected: each raises (it is not on the disk), few files are begun, and once syncs work again so does the sink.
        """
        clock = Clock()
        sink = JsonlSink(tmp_path / "a.jsonl", durability="record", say=lambda text: None, clock=clock)
        caller = Caller(sink)
        caller("run_start")
        broken["fail"] = 10**6
        for _ in range(50):
            caller()
            clock.now += 10
        assert len(caller.lost) == 50
        assert len(segments(tmp_path)) <= 4
        broken["fail"] = 0
        assert caller()
        sink.close()
        assert read_log(*segments(tmp_path)).torn == []
        assert set(caller.written) <= set(read_log(*segments(tmp_path)).seqs)

    def test_what_is_synced(self, tmp_path, broken):
        """No fault: `none` never syncs, `checkpoint` at landmarks and the end, `record` always; new names once."""
        for durability, files in [("none", 0), ("checkpoint", 3), ("record", 6)]:
            folder = tmp_path / durability
            del broken["files"][:]
            sink = JsonlSink(folder / "a.jsonl", durability=durability)
            caller = Caller(sink)
            for event in ["run_start", "train_step", "checkpoint", "train_step", "run_end"]:
                caller(event)
            sink.close()
            inodes = [inode for _, inode in broken["files"]]
            assert inodes.count((folder / "a.jsonl").stat().st_ino) == files
            assert inodes.count(folder.stat().st_ino) == (files > 0)
            assert inodes.count(tmp_path.stat().st_ino) == (files > 0)

    def test_a_folder_that_cannot_be_synced(self, tmp_path, monkeypatch):
        """Fault: a file system that has no sync of folders (EINVAL). Expected: no error: it keeps names anyway."""
        fsync = os.fsync

        def refuse(descriptor):
            if Path(f"/proc/self/fd/{descriptor}").is_dir():
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            fsync(descriptor)

        monkeypatch.setattr(sinks.segment.os, "fsync", refuse)
        sink = JsonlSink(tmp_path / "a.jsonl", durability="record")
        caller = Caller(sink)
        assert caller()
        sink.close()
        assert segments(tmp_path) == [tmp_path / "a.jsonl"]
