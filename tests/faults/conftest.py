"""Marker `faults` for every test of this folder, and signals at short intervals."""

import signal
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def storm():
    """Interrupt this thread at short intervals, and give the timer back to pytest-timeout in the end.

    A handler of `storm(handler, seconds)` may be interrupted by itself, at most 20 deep. On a busy machine a handler
    takes longer than the interval, and without a bound its stack would grow until Python raises a RecursionError.
    `storm.raising(handler, seconds)` is for a handler that raises, and so cannot pile up.
    """
    earlier = signal.getsignal(signal.SIGALRM)
    timer = signal.setitimer(signal.ITIMER_REAL, 0)

    def start(handler, seconds):
        depth = 0

        def bounded(number, frame):
            nonlocal depth
            depth += 1
            nested = depth < 20
            if nested:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            handler(number, frame)
            depth -= 1
            if not nested:
                signal.setitimer(signal.ITIMER_REAL, seconds)

        signal.signal(signal.SIGALRM, bounded)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def raising(handler, seconds):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    def stop():
        signal.setitimer(signal.ITIMER_REAL, 0)

    start.raising, start.stop = raising, stop
    yield start
    stop()
    signal.signal(signal.SIGALRM, earlier)
    signal.setitimer(signal.ITIMER_REAL, *timer)
