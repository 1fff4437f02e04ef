"""Unexpected calls of emit from signal handlers, finalizers, sinks and many threads, and clocks that jump."""

import gc
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest

from higgs_audio_trainer.pipeline.deliveries import Deliveries
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import JsonlSink, MemorySink
from tests.builders import RUN_ID, checkpoint


def seqs_in(path):
    """Return the seq of each line of a file."""
    return [orjson.loads(line)["seq"] for line in path.read_bytes().splitlines()]


def test_handlers_that_emit(tmp_path, storm):
    """Fault: thousands of signals whose handler emits. Expected: no hang, no gap, each call delivered or counted."""
    sink = JsonlSink(tmp_path / "log.jsonl")
    said = []
    emit = Pipeline([("jsonl", sink), ("memory", memory := MemorySink())], run_id=RUN_ID, say=said.append)
    handled = emitted = 0

    def handler(_number, _frame):
        nonlocal handled
        handled += 1
        emit(checkpoint(path="handler"))
        emit.fail("handler", ValueError("x"))

    storm(handler, 0.0002)
    until = time.monotonic() + 30
    while handled < 4000 and time.monotonic() < until:
        emit(checkpoint(path="main"))
        emitted += 1
    storm.stop()
    dropped = emit.failures["re-entrant emit"]
    assert handled >= 4000
    assert emit.failures == {"re-entrant emit": dropped, "handler": handled}
    assert emit.written == emitted + handled - dropped
    assert seqs_in(tmp_path / "log.jsonl") == list(range(emit.written))
    assert [record["seq"] for record in memory.records] == list(range(emit.written))
    assert [record["path"] for record in memory.records].count("main") == emitted
    assert 0 < dropped < handled, "the storm should hit both inside and outside of emit"
    emit(checkpoint())
    assert len(said) == 2, "each source is said once"
    sink.close()


def test_handlers_that_raise(storm):
    """Fault: thousands of signals whose handler raises.

    Expected: no lock stays held, and each missing seq is claimed.
    """
    flaky, memory = MemorySink(), MemorySink()
    emit = Pipeline([("a", flaky), ("b", memory)], run_id=RUN_ID, say=lambda _text: None)
    interrupted = finished = 0

    def handler(_number, frame):
        while frame is not None and "hypothesis" not in frame.f_code.co_filename:  # its hook must not raise
            if frame.f_code is Pipeline.__call__.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back

    until = time.monotonic() + 30
    storm.raising(handler, 0.0003)
    while interrupted < 2000 and time.monotonic() < until:
        try:
            emit(checkpoint())
            finished += 1
        except KeyboardInterrupt:
            interrupted += 1
    storm.stop()
    thread = threading.Thread(target=emit, args=(checkpoint(path="thread"),))
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the lock should be free"
    assert interrupted >= 2000
    assert memory.named("checkpoint")[-1]["path"] == "thread"
    last = max(record["seq"] for record in memory.records)
    for name, sink in (("a", flaky), ("b", memory)):
        seqs = [record["seq"] for record in sink.records]
        assert seqs == sorted(set(seqs))
        claims = [record for record in sink.records if record.get("sink") == name]
        missing = set(range(last + 1)) - set(seqs)
        assert all(any(claim["first_seq"] <= seq <= claim["last_seq"] for claim in claims) for seq in missing)
        # A claim may include a record that a sink accepted just before the signal, but never omits a lost record.
        assert sum(claim["lost"] for claim in claims) >= len(missing)
    assert finished <= len({record["seq"] for record in memory.records if record["event"] == "checkpoint"})


def test_handler_while_another_thread_delivers(storm):
    """Fault: a signal comes while another thread is in a slow sink. Expected: the handler waits for the sink only."""
    memory = MemorySink()
    slow = ("slow", lambda _record: time.sleep(0.01))
    emit = Pipeline([slow, ("memory", memory)], run_id=RUN_ID, say=lambda _text: None)
    handled = 0

    def handler(_number, _frame):
        nonlocal handled
        handled += 1
        emit(checkpoint(path="handler"))

    def work():
        for _ in range(40):
            emit(checkpoint(path="thread"))

    thread = threading.Thread(target=work)
    storm(handler, 0.02)
    thread.start()
    while thread.is_alive():
        thread.join(0.001)
    storm.stop()
    # A signal during the handler's own emit is a re-entrant call; a signal during the other thread's emit is not.
    assert emit.written == 40 + handled - emit.lost
    assert [record["seq"] for record in memory.records] == list(range(emit.written))
    assert handled > emit.lost


class Garbage:
    """Reference cycle whose finalizer emits an event."""

    made = ended = 0

    def __init__(self, emit):
        self.emit, self.me = emit, self
        Garbage.made += 1

    def __del__(self):
        Garbage.ended += 1
        self.emit(checkpoint(path="garbage"))


def test_finalisers():
    """Fault: garbage whose `__del__` emits is collected at any time. Expected: each call is delivered or counted."""
    Garbage.made = Garbage.ended = 0
    memory = MemorySink()

    def littering(_record):
        Garbage(emit)
        gc.collect(0)

    emit = Pipeline([("littering", littering), ("memory", memory)], run_id=RUN_ID, say=lambda _text: None)
    threshold = gc.get_threshold()
    gc.set_threshold(7)
    try:
        for _ in range(300):
            Garbage(emit)
            emit(checkpoint(path="main"))
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    dropped = emit.failures["re-entrant emit"]
    assert emit.written == 300 + Garbage.ended - dropped
    assert [record["seq"] for record in memory.records] == list(range(emit.written))
    assert dropped >= 300
    emit._deliveries = Deliveries((), fail=print)  # the remaining garbage emits nothing here


@pytest.mark.parametrize("place", ["sink", "say", "clock", "value", "event"])
def test_calls_from_within(place):
    """Fault: a sink, `say`, the clock, a value or the event emits.

    Expected: the calls are dropped, counted and announced once, and nothing hangs.
    """
    said, memory = [], MemorySink()

    def inside(*_args):
        emit(checkpoint(path="inside"))
        emit.fail("inside", ValueError("x"))

    def say(text):
        said.append(text)
        if place == "say":
            inside()

    def clock():
        if place == "clock":
            inside()
        return datetime(2026, 1, 2, tzinfo=UTC)

    class Value:
        shape = property(inside)

    class Event:
        name = property(inside)

    sinks = [("sink", inside if place == "sink" else memory), ("memory", memory)]
    emit = Pipeline(sinks, run_id=RUN_ID, say=say, clock=clock)
    for _ in range(3):
        emit(Event() if place == "event" else checkpoint(path=Value() if place == "value" else "main"))
        if place == "say":
            emit.fail("outside", ValueError("x"))
    assert all(record["path"] != "inside" for record in memory.records)
    assert emit.failures["re-entrant emit"] == emit.failures["inside"] >= (1 if place == "say" else 3)
    seqs = {record["seq"] for record in memory.records}
    assert seqs == set(range(0 if place == "event" else 3))
    emit(checkpoint())
    assert len([text for text in said if "re-entrant emit" in text]) == 1
    assert len(said) == len(set(said))


def test_say_that_finds_ever_new_failures():
    """Fault: each announcement causes another failure.

    Expected: each call announces the earlier failures and returns.
    """
    said = []

    def say(text):
        said.append(text)
        emit.fail(f"source {len(said)}", ValueError("x"))

    emit = Pipeline([], run_id=RUN_ID, say=say)
    emit.fail("source 0", ValueError("x"))
    assert len(said) == 1
    emit(checkpoint())
    assert len(said) == 2


def test_sixteen_threads(tmp_path):
    """Fault: 16 threads emit at once, and a sink fails now and then. Expected: exact counts, and order by seq."""
    each = 400
    sink = JsonlSink(tmp_path / "log.jsonl")
    memory, flaky = MemorySink(), []

    def fails(record):
        if record["event"] == "checkpoint" and record["seq"] % 7 == 3:
            raise OSError(28, "No space left on device")
        flaky.append(record)

    emit = Pipeline([("jsonl", sink), ("flaky", fails), ("memory", memory)], run_id=RUN_ID, say=lambda _text: None)
    start = threading.Barrier(16)

    def work(index):
        start.wait()
        for number in range(each):
            emit(checkpoint(step=number, path=f"thread {index}"))
            emit.fail("extraction", ValueError("x"))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    count = len(memory.records)
    assert seqs_in(tmp_path / "log.jsonl") == [record["seq"] for record in memory.records] == list(range(count))
    assert len(memory.named("checkpoint")) == 16 * each
    for index in range(16):
        steps = [record["step"] for record in memory.records if record.get("path") == f"thread {index}"]
        assert steps == list(range(each)), "each thread's events should be in its order"
    lost = count - len(flaky)
    assert lost > 100
    assert emit.written == len(flaky)
    assert emit.failures == {"flaky": lost, "extraction": 16 * each}
    assert [record["seq"] for record in flaky] == sorted(record["seq"] for record in flaky)
    assert sum(claim["lost"] for claim in memory.named("sink_recovered")) >= lost - 1
    sink.close()


NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_clock_that_jumps_back():
    """Fault: the clock goes back by a year. Expected: `ts` follows the clock; `seq` and `seconds` do not."""
    times = [NOON, NOON - timedelta(days=365), NOON + timedelta(days=1)]
    memory = MemorySink()
    emit = Pipeline([("memory", memory)], run_id=RUN_ID, clock=iter(times).__next__)
    spent = []
    for _ in times:
        emit(checkpoint())
        spent.append(emit.seconds)
    assert [record["ts"][:10] for record in memory.records] == ["2026-06-01", "2025-06-01", "2026-06-02"]
    assert [record["seq"] for record in memory.records] == [0, 1, 2]
    assert 0 < spent[0] < spent[1] < spent[2]


def _raise():
    raise OverflowError


def _end_of_time():
    return datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))  # has no equivalent in UTC


@pytest.mark.parametrize("broken", [_raise, lambda: None, lambda: 1.5, _end_of_time])
def test_clock_that_fails(broken):
    """Fault: the clock raises or returns no time.

    Expected: the event gets the previous time; the failure is counted.
    """
    clocks = iter([broken, lambda: NOON, broken])
    said, memory = [], MemorySink()

    def clock():
        return next(clocks)()

    emit = Pipeline([("memory", memory)], run_id=RUN_ID, clock=clock, say=said.append)
    for _ in range(3):
        emit(checkpoint())
    assert [record["ts"] for record in memory.records] == [
        "1970-01-01T00:00:00.000000Z",
        "2026-06-01T12:00:00.000000Z",
        "2026-06-01T12:00:00.000000Z",
    ]
    assert (emit.written, emit.lost, emit.failures, len(said)) == (3, 0, {"clock": 2}, 1)


def test_clock_of_another_zone():
    """Fault: the clock returns the time of another zone. Expected: `ts` is UTC."""
    memory = MemorySink()
    zone = timezone(timedelta(hours=3))
    Pipeline([("memory", memory)], run_id=RUN_ID, clock=lambda: NOON.astimezone(zone))(checkpoint())
    assert memory.records[0]["ts"] == "2026-06-01T12:00:00.000000Z"
