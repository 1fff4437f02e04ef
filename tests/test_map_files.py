"""Reading of many files: order, and threads only where the disk is slow."""

import threading
from types import SimpleNamespace

import pytest

from higgs_audio_trainer.data.preparation import map_files as module
from higgs_audio_trainer.data.preparation.map_files import map_files


@pytest.fixture
def clocks(monkeypatch):
    """Replace the clocks: each call of a reader takes a millisecond, of which it computes the given share."""
    made = SimpleNamespace(now=0.0, computed=0.0, share=1.0)

    def tick():
        made.now += 0.001
        made.computed += 0.001 * made.share

    made.tick = tick
    fake = SimpleNamespace(perf_counter=lambda: made.now, thread_time=lambda: made.computed)
    monkeypatch.setattr(module, "time", fake)
    return made


def test_a_fast_disk_is_read_by_one_thread(clocks):
    """Files that are in memory are read in this thread, in order."""
    threads = set()

    def read(number):
        clocks.tick()
        threads.add(threading.get_ident())
        return number

    assert list(map_files(read, range(3_000))) == list(range(3_000))
    assert threads == {threading.get_ident()}


def test_a_slow_disk_is_read_by_several_threads(clocks):
    """While a thread waits for a file, others wait for the next files. The order stays."""
    clocks.share = 0.1
    at_once, places = threading.Barrier(4), []

    def read(number):
        clocks.tick()
        if 200 <= number < 204:
            places.append(at_once.wait(timeout=60))  # passes only if four threads are here
        return number

    assert list(map_files(read, range(300))) == list(range(300))
    assert sorted(places) == [0, 1, 2, 3]


def test_an_error_is_raised_where_the_file_was(clocks):
    """What was read before stays usable."""

    def read(number):
        clocks.tick()
        return 1 // (250 - number)

    reading = map_files(read, range(300))
    assert sum(1 for _ in zip(range(200), reading, strict=False)) == 200
    with pytest.raises(ZeroDivisionError):
        list(reading)
