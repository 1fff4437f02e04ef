"""Failed and partial writes, and files that end in the middle of a line."""

import errno
import os
from itertools import pairwise

import pytest

import sinks.segment
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks.jsonl import JsonlSink
from tests.builders import RUN_ID, audio_sample, checkpoint, fixed_clock, run_end, run_start, train_step
from tests.faults.writer import Caller, Clock, check, line, read_log, record, segments

RECORDS = 12


class Write:
    """Replacement of os.write. Call `nth`, and with `for_ever` every later call, fails after `part` bytes."""

    def __init__(self, nth, *, part=0, number=errno.ENOSPC, for_ever=False):
        self.nth, self.part, self.number, self.for_ever = nth, part, number, for_ever
        self.calls = 0
        self._partial = False
        self._write = os.write

    def __call__(self, descriptor, data):
        """Write, write a part, or fail."""
        self.calls += 1
        if self._partial or (self.for_ever and self.calls > self.nth):
            self._partial = False
            raise OSError(self.number, os.strerror(self.number))
        if self.calls != self.nth:
            return self._write(descriptor, data)
        if not self.part:
            raise OSError(self.number, os.strerror(self.number))
        self._partial = True
        return self._write(descriptor, data[: self.part])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rank00000-attempt000.jsonl"


def test_truncated_at_every_byte(path):
    """Fault: the file ends at any byte of 20 records, and a new sink appends to the file.

    Expected: complete lines stay byte for byte. The torn line gets a newline and stays alone, and the new record is
    whole.
    """
    records = [record(seq, text="مرحبا" if seq % 2 else "a\u2028b") for seq in range(20)]
    whole = b"".join(line(item) for item in records)
    new = line(record(20))
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        sink = JsonlSink(path)
        sink(record(20))
        sink.close()
        healed = b"\n" if end and whole[end - 1 : end] != b"\n" else b""
        assert path.read_bytes() == whole[:end] + healed + new


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE])
@pytest.mark.parametrize(
    "part", [0, 1, 40, -2, -1], ids=["nothing", "one byte", "a part", "all but two", "newline out"]
)
def test_nth_write_fails_once(monkeypatch, tmp_path, part, number):
    """Fault: the N-th write fails once, for every N, after no byte, a part, or all bytes but the newline.

    Expected: only the record of the failed call is missing, and no record is missing where only the newline was. No
    lines are fused.
    """
    for nth in range(1, RECORDS + 1):
        folder = tmp_path / str(nth)
        with monkeypatch.context() as patch:
            write = Write(nth, part=part, number=number)
            patch.setattr(sinks.segment.os, "write", write)
            sink = JsonlSink(folder / "a.jsonl", say=lambda text: None, clock=Clock())
            caller = Caller(sink)
            caller("run_start")
            for _ in range(1, RECORDS):
                caller()
            sink.close()
        assert caller.lost == ([] if part == -1 else [nth - 1])
        found = check(caller, *segments(folder))
        assert len(found.torn) == (part not in (0, -1))
        assert found.tails == []


@pytest.mark.parametrize("part", [0, 40])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_nth_write_fails_for_ever(monkeypatch, tmp_path, part, number):
    """Fault: every write from the N-th on fails, for every N.

    Expected: earlier records are in the file, and later records count as lost. At most a single line is torn, and the
    sink starts at most three useless files.
    """
    for nth in range(1, RECORDS + 1):
        folder, clock = tmp_path / str(nth), Clock()
        with monkeypatch.context() as patch:
            patch.setattr(sinks.segment.os, "write", Write(nth, part=part, number=number, for_ever=True))
            sink = JsonlSink(folder / "a.jsonl", say=lambda text: None, clock=clock)
            caller = Caller(sink)
            for seq in range(RECORDS):
                caller("train_step" if seq else "run_start")
                clock.now += 10
            sink.close()
        assert caller.written == list(range(nth - 1))
        assert set(caller.errnos) == {number}
        found = check(caller, *segments(folder))
        assert len(found.torn) <= 1
        assert len(segments(folder)) <= 4


@pytest.mark.parametrize("part", [0, 40])
@pytest.mark.parametrize("for_ever", [False, True])
def test_pipeline_counts_what_fails(monkeypatch, tmp_path, part, for_ever):
    """Fault: the N-th write fails, for every N, under the real pipeline.

    Expected: no exception, and the pipeline's count of lost records equals the records missing in the file.
    """
    events = [run_start(), train_step(), audio_sample(), checkpoint(), train_step(), run_end()]
    for nth in range(1, len(events) + 1):
        folder = tmp_path / str(nth)
        with monkeypatch.context() as patch:
            patch.setattr(sinks.segment.os, "write", Write(nth, part=part, for_ever=for_ever))
            sink = JsonlSink(folder / "a.jsonl", say=lambda text: None)
            emit = Pipeline([("jsonl", sink)], run_id=RUN_ID, clock=fixed_clock)
            for event in events:
                emit(event)
            sink.close()
        own = [item for item in read_log(*segments(folder)).records if item["event"] != "sink_recovered"]
        assert len(own) == len(events) - emit.lost
        assert emit.lost == (len(events) - nth + 1 if for_ever else 1)


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_short_writes(monkeypatch, path, limit):
    """Fault: every write takes only a few bytes. Expected: the rest follows; every line is whole."""
    write = os.write
    monkeypatch.setattr(sinks.segment.os, "write", lambda fd, data: write(fd, data[:limit]))
    sink = JsonlSink(path)
    for seq in range(20):
        sink(record(seq))
    sink.close()
    assert path.read_bytes() == b"".join(line(record(seq)) for seq in range(20))


def test_a_write_that_takes_nothing(monkeypatch, path):
    """Fault: a write returns 0. Expected: an error instead of an endless loop."""
    sink = JsonlSink(path, say=lambda text: None)
    with monkeypatch.context() as patch:
        patch.setattr(sinks.segment.os, "write", lambda fd, data: 0)
        with pytest.raises(OSError, match="nothing was written"):
            sink(record(0))
    sink(record(1))
    sink.close()
    assert read_log(*segments(path.parent)).seqs == [1]


def test_healing_is_part_of_the_next_write(monkeypatch, path):
    """Fault: a torn line.

    Expected: a single write holds the missing newline and the next record, so no kill falls between.
    """
    path.write_bytes(b'{"event":"x","se')
    calls, write = [], os.write
    monkeypatch.setattr(sinks.segment.os, "write", lambda fd, data: calls.append(bytes(data)) or write(fd, data))
    sink = JsonlSink(path)
    sink(record(0))
    sink(record(1))
    sink.close()
    assert calls == [b"\n" + line(record(0)), line(record(1))]


def test_torn_by_another_hand(path):
    """Fault: another program cuts the file in the middle of a line during the run.

    Expected: the rest of the file stays, and the next record begins a new line.
    """
    sink = JsonlSink(path)
    sink(record(0))
    sink(record(1))
    kept = path.stat().st_size - 10
    os.truncate(path, kept)
    sink(record(2))
    sink.close()
    assert path.read_bytes() == (line(record(0)) + line(record(1)))[:kept] + b"\n" + line(record(2))


def test_interrupted_between_two_parts(monkeypatch, path):
    """Fault: a signal handler's exception interrupts a partial write. Expected: the torn line stays alone."""
    sink, write = JsonlSink(path), os.write

    def part(descriptor, data):
        write(descriptor, data[:20])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sinks.segment.os, "write", part)
        with pytest.raises(KeyboardInterrupt):
            sink(record(0))
    sink(record(1))
    sink.close()
    assert path.read_bytes() == line(record(0))[:20] + b"\n" + line(record(1))


def test_waits_longer_after_each_failure(monkeypatch, path):
    """Fault: a disk stays full.

    Expected: a retry at once, then after 0.1 s, doubled up to 5 s; every lost record raises.

    Checkpoints and the run's end are tried without a wait.
    """
    clock = Clock()
    sink = JsonlSink(path, clock=clock)
    write = Write(1, for_ever=True)
    monkeypatch.setattr(sinks.segment.os, "write", write)
    caller, tried = Caller(sink), []
    for _ in range(30 * 100):
        before = write.calls
        assert not caller()
        if write.calls > before:
            tried.append(round(clock.now, 2))
        clock.now += 0.01
    gaps = [round(later - earlier, 1) for earlier, later in pairwise(tried)]
    assert gaps == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
    assert caller.lost == list(range(3000))
    for event in ("checkpoint", "run_end"):
        before = write.calls
        assert not caller(event)
        assert write.calls == before + 1
    sink.close()


def test_works_again_at_once(monkeypatch, path):
    """Fault: a disk is full for a while.

    Expected: the log continues after the wait; the next failure starts a new wait.
    """
    clock = Clock()
    sink = JsonlSink(path, clock=clock)
    caller = Caller(sink)
    caller()
    with monkeypatch.context() as patch:
        patch.setattr(sinks.segment.os, "write", Write(1, for_ever=True))
        caller()
        caller()
    assert not caller()  # too early
    clock.now += 0.11
    assert caller()
    with monkeypatch.context() as patch:
        patch.setattr(sinks.segment.os, "write", Write(1))
        assert not caller()
        assert caller()  # at once
    sink.close()
    assert caller.lost == [1, 2, 3, 5]
    assert check(caller, path).torn == []


def test_a_failure_keeps_no_record_alive(monkeypatch, path):
    """Fault: many failed writes. Expected: each error is a new object without an old traceback."""
    sink = JsonlSink(path, clock=Clock())
    monkeypatch.setattr(sinks.segment.os, "write", Write(1, for_ever=True))
    errors = []
    for seq in range(4):
        with pytest.raises(OSError, match="No space left on device") as caught:
            sink(record(seq))
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 4
    assert [error.errno for error in errors] == [errno.ENOSPC] * 4
    sink.close()


def test_eintr_storm(path, storm):
    """Fault: a signal every 0.2 ms during 20,000 writes. Expected: no error; every line is whole and occurs once."""
    received = []
    sink = JsonlSink(path)
    caller = Caller(sink)
    storm(lambda number, frame: received.append(number), 0.0002)
    for _ in range(20_000):
        caller()
    storm.stop()
    sink.close()
    assert len(received) > 100
    assert caller.lost == []
    assert check(caller, path).torn == []
