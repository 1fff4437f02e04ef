"""Full and read-only disks, limited file sizes, and processes without free descriptors."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from sinks.jsonl import JsonlSink
from tests.faults import needs_root
from tests.faults.writer import Caller, Clock, check, line, read_log, record, segments

MKFS = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")  # /sbin is not on every user's PATH

ROOT = Path(__file__).parents[2]


def run(command):
    """Run a system tool, and skip the test where the system refuses."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(map(str, command[:3]))}: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a tmpfs of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder])
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, option):
    """Remount a file system with an option."""
    run(["mount", "-o", f"remount,{option}", folder])


@contextmanager
def attribute(path, flag):
    """Set a file attribute in a block."""
    run(["chattr", f"+{flag}", path])
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{flag}", path], check=True)


@contextmanager
def limit(kind, soft):
    """Lower a resource limit of this process in a block."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def in_child(function):
    """Run a function in a forked child with separate limits, and fail if the function fails."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - the exit status reports the failure to the parent
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_root
class TestFullDisk:
    @pytest.mark.parametrize("size", [100, 1000, 5000])
    def test_filled_and_enlarged(self, small_disk, size):
        """Fault: a disk of 64 KiB is full and is enlarged later.

        Expected: the count of lost records is exact, no lines are fused, at most a single line is torn, and the log
        continues.
        """
        clock = Clock()
        sink = JsonlSink(small_disk / "log.jsonl", clock=clock)
        caller = Caller(sink)
        while len(caller.lost) < 20:
            caller(text="x" * size)
            clock.now += 10
        assert set(caller.errnos) == {errno.ENOSPC}
        remount(small_disk, "size=256k")
        for _ in range(20):
            clock.now += 10
            assert caller(text="x" * size)
        sink.close()
        found = check(caller, *segments(small_disk))
        assert len(found.torn) == 1
        assert segments(small_disk) == [small_disk / "log.jsonl"]

    def test_short_records_end_the_torn_line(self, small_disk):
        """Fault: the disk has only a few free bytes. Expected: exact counts, although each record may tear a line."""
        sink = JsonlSink(small_disk / "log.jsonl", clock=Clock())
        caller = Caller(sink)
        for size in [30_000, 30_000, 30_000, 1, 30_000, 1, 1, 100]:
            caller("checkpoint", text="x" * size)
        (small_disk / "log.jsonl").stat()
        remount(small_disk, "size=256k")
        caller("checkpoint")
        sink.close()
        check(caller, small_disk / "log.jsonl")
        assert caller.lost

    def test_a_segment_that_cannot_be_begun(self, small_disk):
        """Fault: the disk is full when a new file is needed.

        Expected: losses are counted; the log continues with free space.
        """
        said, clock = [], Clock()
        sink = JsonlSink(small_disk / "a.jsonl", say=said.append, clock=clock)
        caller = Caller(sink)
        caller("run_start")
        (small_disk / "a.jsonl").rename(small_disk / "kept")
        with pytest.raises(OSError, match="No space"):
            (small_disk / "filler").write_bytes(bytes(80_000))
        for _ in range(3):
            caller()
            clock.now += 10
        (small_disk / "filler").unlink()
        caller()
        sink.close()
        assert caller.written == [0, 4]
        assert set(caller.errnos) == {errno.ENOSPC}
        check(caller, small_disk / "kept", *segments(small_disk))
        assert len(segments(small_disk)) == 1
        assert len(said) == 1


@needs_root
@pytest.mark.skipif(MKFS is None, reason="mkfs.ext4 is not installed")
def test_read_only_in_the_middle(tmp_path):
    """Fault: the file system becomes read-only under the open file, as ext4 does after a disk error.

    Expected: written records stay, and later records count as lost until another disk is mounted at the same path.
    There, the log continues in a new segment.
    """
    image, folder, clock, said = tmp_path / "image", tmp_path / "disk", Clock(), []
    image.write_bytes(b"")
    os.truncate(image, 4 * 1024 * 1024)
    folder.mkdir()
    run([MKFS, "-q", "-F", image])
    run(["mount", "-o", "loop", image, folder])
    try:
        sink = JsonlSink(folder / "a.jsonl", clock=clock, say=said.append)
        caller = Caller(sink)
        caller("run_start")
        caller()
        remount(folder, "abort")
        for _ in range(5):
            caller()
            clock.now += 10
        before = (folder / "a.jsonl").read_bytes()
        run(["mount", "-t", "tmpfs", "tmpfs", folder])
        try:
            caller()
            sink.close()
            after = segments(folder)[0].read_bytes()
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert (caller.written, caller.lost) == ([0, 1, 7], [2, 3, 4, 5, 6])
    assert set(caller.errnos) == {errno.EROFS}
    assert before == line(record(0, "run_start")) + line(record(1))
    assert after == line(record(0, "run_start")) + line(record(7))
    assert len(said) == 1


@needs_root
@pytest.mark.parametrize("again", [True, False], ids=["later", "never"])
def test_immutable(tmp_path, again):
    """Fault: the file is immutable (chattr +i).

    Expected: lost records are counted; the log continues when writable again.
    """
    clock = Clock()
    sink = JsonlSink(tmp_path / "a.jsonl", clock=clock)
    caller = Caller(sink)
    caller()
    with attribute(tmp_path / "a.jsonl", "i"):
        for _ in range(4):
            assert not caller()
            clock.now += 10
    if again:
        assert caller()
    sink.close()
    assert set(caller.errnos) == {errno.EPERM}
    assert check(caller, tmp_path / "a.jsonl").torn == []


@needs_root
def test_append_only(tmp_path):
    """Fault: the torn file is append-only (chattr +a). Expected: no difference, as the sink only appends."""
    (tmp_path / "a.jsonl").write_bytes(b'{"event":"x"')
    (tmp_path / "a.jsonl").chmod(0o600)
    with attribute(tmp_path / "a.jsonl", "a"):
        sink = JsonlSink(tmp_path / "a.jsonl")
        caller = Caller(sink)
        assert all(caller() for _ in range(5))
        sink.close()
    assert check(caller, tmp_path / "a.jsonl").torn == [b'{"event":"x"']


@pytest.mark.parametrize("size", [1000, 4000, 100_000])
def test_file_size_limit(tmp_path, size):
    """Fault: RLIMIT_FSIZE is 256 KiB.

    Expected: exact counts, and the log continues in a new file after each full file. Each file loses a single record,
    the record at the limit.
    """

    def write():
        said = []
        sink = JsonlSink(tmp_path / "a.jsonl", say=said.append)
        caller = Caller(sink)
        caller("run_start")
        with limit(resource.RLIMIT_FSIZE, 256 * 1024):
            while len(caller.lost) < 5:
                caller(text="x" * size)
            caller()
            sink.close()
        assert set(caller.errnos) == {errno.EFBIG}
        found = check(caller, *segments(tmp_path))
        assert len(found.torn) <= 5
        assert len(segments(tmp_path)) == 6
        assert all(path.read_bytes().startswith(line(record(0, "run_start"))) for path in segments(tmp_path))
        assert len(said) == 5

    in_child(write)


def test_no_free_descriptor(tmp_path, monkeypatch):
    """Fault: no descriptor is free when the sink reopens the file or starts another file.

    Expected: losses are counted, and the sink keeps the open descriptor. With a free descriptor, the log continues and
    the torn line stays alone.
    """

    def write():
        clock = Clock()
        sink = JsonlSink(tmp_path / "a.jsonl", clock=clock, say=lambda text: None)
        caller = Caller(sink)
        caller("run_start")
        with monkeypatch.context() as patch, limit(resource.RLIMIT_FSIZE, sink.path.stat().st_size + 10):
            patch.setattr("sinks.jsonl._LOST_FILE", frozenset())  # keeps the sink at this file
            caller()
        with limit(resource.RLIMIT_NOFILE, 3):
            for _ in range(3):
                clock.now += 10
                caller()
        clock.now += 10
        caller()
        (tmp_path / "a.jsonl").rename(tmp_path / "kept")
        with limit(resource.RLIMIT_NOFILE, 3):
            caller()
        caller()
        sink.close()
        assert caller.errnos == [errno.EFBIG, *[errno.EMFILE] * 4]
        assert caller.written == [0, 5, 7]
        assert len(check(caller, tmp_path / "kept", *segments(tmp_path)).torn) == 1
        assert len(segments(tmp_path)) == 1

    in_child(write)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_standard_streams(tmp_path, closed):
    """Fault: descriptors 0 to 2 are closed, as in a daemon. Expected: the log uses no descriptor of 0 to 2.

    Later output of the process or of a child does not reach the log.
    """
    script = f"""
        import os, sys
        for number in {closed}:
            os.close(number)
        from sinks.jsonl import JsonlSink
        sink = JsonlSink(sys.argv[1])
        sink({{"event": "x", "seq": 0}})
        os.rename(sys.argv[1], sys.argv[1] + ".old")
        sink({{"event": "x", "seq": 1}})
        for number in {closed}:
            try:
                os.write(number, b"printed")
            except OSError:
                pass
        sink({{"event": "x", "seq": 2}})
    """
    path = tmp_path / "a.jsonl"
    done = subprocess.run([sys.executable, "-c", dedent(script), path], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0
    found = read_log(tmp_path / "a.jsonl.old", *segments(tmp_path))
    assert (found.seqs, found.torn) == ([0, 1, 2], [])
