"""Disks that fail to sync."""

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
        """Let the next syncs of files fail, and return the descriptors of the calls."""
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

        Expected: the sink never syncs this descriptor again. The checkpoint is written to a new segment and synced
        there, and a single message reports the new segment.
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
        """Fault: a sync fails, and so does the sync of the new segment, as on a disk with a late check of quotas.

        Expected: the call raises although the line is in the file. The next record goes to a third file, as a file with
        a failed sync is not trusted again.
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

        Expected: each call raises, as the record is not on disk. The sink starts few files, and works again as soon as
        syncs work.
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
        """Fault: no fault.

        Expected: `none` never syncs, `checkpoint` syncs landmarks and the end, and `record` syncs each record. Folders
        are synced once for new names.
        """
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
        """Fault: a file system cannot sync folders (EINVAL).

        Expected: no error, as such a file system keeps names anyway.
        """
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
