"""Reading of many files: order, and threads only where the disk is slow."""

import threading
import time

import pytest

from higgs_audio_trainer.data.preparation.map_files import map_files


def test_a_fast_disk_is_read_by_one_thread():
    """Files that are in memory are read in this thread, in order."""
    threads = set()

    def read(number):
        threads.add(threading.get_ident())
        return sum(range(number))

    assert list(map_files(read, range(3_000))) == [sum(range(number)) for number in range(3_000)]
    assert threads == {threading.get_ident()}


def test_a_slow_disk_is_read_by_several_threads():
    """While a thread waits for a file, others wait for the next files. The order stays."""
    at_once, most = threading.Barrier(4), []

    def read(number):
        time.sleep(0.001)
        if number >= 200 and number < 204:
            most.append(at_once.wait(timeout=30))  # passes only if four threads are here
        return number

    assert list(map_files(read, range(300))) == list(range(300))
    assert sorted(most) == [0, 1, 2, 3]


def test_an_error_is_raised_where_the_file_was():
    """What was read before stays usable."""
    read = map_files(lambda number: 1 // (250 - number), range(300))
    assert sum(1 for _ in zip(range(200), read, strict=False)) == 200
    with pytest.raises(ZeroDivisionError):
        list(read)
