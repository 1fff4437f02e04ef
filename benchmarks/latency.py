"""How long a call of `emit` may take: its slowest percentiles, while others emit too and while its sinks fail.

    python -m benchmarks.latency

Each call is timed by itself: an audio `prediction_sample` to the file and the console. 16 threads emit one event each
some 10 ms, at times of their own, which is a hundred times what a training does. On the full disk each write to the
file fails as there; the stopped console is a pipe that nobody reads. What 16 threads do that emit without a pause is a
row without a target: they wait for each other and for Python's global lock, which changes hands each 5 ms.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from unittest import mock

import sinks
from benchmarks.rows import Row, run_alone
from benchmarks.typical_event import typical_event
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks.terminal.screen import Screen

THREADS = 16
PAUSE_S = 0.01
TARGET_MS = 1.0
WARM_UP = 0.05  # of the calls
PERCENTILES = {"p50": 499, "p99": 989, "p99.9": 998}  # of 999 cuts


def rows(quick: bool = False) -> list[Row]:
    """Measure each case; a row of each percentile."""
    calls, alone = (1_600, 1_600) if quick else (16_000, 4_000)
    taken = {
        "idle": _case(alone, threads=1, pause_s=PAUSE_S / 10),
        f"{THREADS} threads": _case(calls, threads=THREADS, pause_s=PAUSE_S),
        "a full disk": _case(alone, threads=1, pause_s=PAUSE_S / 10, disk_is_full=True),
        "a stopped console": _case(alone, threads=1, pause_s=PAUSE_S / 10, console_is_stopped=True),
        f"{THREADS} threads, a full disk, a stopped console": _case(
            calls, threads=THREADS, pause_s=PAUSE_S, disk_is_full=True, console_is_stopped=True
        ),
        f"{THREADS} threads without a pause": _case(calls, threads=THREADS, pause_s=0.0),
    }
    idle = _percentiles(taken["idle"])
    made = []
    for case, seconds in taken.items():
        for name, milliseconds in _percentiles(seconds).items():
            asked = name == "p99" and "without" not in case
            made.append(
                Row(
                    name=f"emit, {case}: {name}",
                    figure=milliseconds,
                    unit="ms",
                    against="" if case == "idle" else "idle",
                    ratio=None if case == "idle" else milliseconds / idle[name],
                    target="p99 < 1 ms" if asked else "",
                    holds=milliseconds < TARGET_MS if asked else None,
                )
            )
    return made


def _percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=1000)
    return {name: 1000 * cuts[index] for name, index in PERCENTILES.items()}


def _case(
    calls: int, *, threads: int, pause_s: float, disk_is_full: bool = False, console_is_stopped: bool = False
) -> list[float]:
    with tempfile.TemporaryDirectory() as folder, _console(stopped=console_is_stopped) as screen:
        context = sinks.SinkContext(folder, "r", 0, 0, screen, screen.note)
        emit = Pipeline(sinks.build("console,jsonl", context), run_id="0" * 26, say=lambda _line: None)
        taken: list[list[float]] = [[] for _ in range(threads)]
        begin = threading.Barrier(threads)
        working = [
            threading.Thread(target=_emit, args=(emit, begin, calls // threads, pause_s, seconds)) for seconds in taken
        ]
        with _disk(full=disk_is_full):
            for thread in working:
                thread.start()
            for thread in working:
                thread.join()
        if (disk_is_full or console_is_stopped) and not emit.lost:
            raise RuntimeError("expected deliveries to fail, and none did")
    return [one for seconds in taken for one in seconds[int(WARM_UP * len(seconds)) :]]


def _emit(emit: Pipeline, begin: threading.Barrier, calls: int, pause_s: float, taken: list[float]) -> None:
    pauses = random.Random(threading.get_native_id())
    event = typical_event()
    begin.wait()
    for _ in range(calls):
        if pause_s:
            time.sleep(pauses.uniform(0, 2 * pause_s))
        began = time.perf_counter()
        emit(event)
        taken.append(time.perf_counter() - began)


@contextmanager
def _console(*, stopped: bool) -> Iterator[Screen]:
    """Open a console that reads at once, or one that never reads: a pipe."""
    reading, writing = os.pipe()
    reader = None
    if not stopped:
        reader = threading.Thread(target=_read, args=(reading,), daemon=True)
        reader.start()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        screen = Screen(stream, stream)
        try:
            yield screen
        finally:
            if stopped:
                os.close(reading)  # ends the write that hangs
            screen.close()
    if reader is not None:
        reader.join()
        os.close(reading)


def _read(descriptor: int) -> None:
    while os.read(descriptor, 1 << 16):
        pass


@contextmanager
def _disk(*, full: bool) -> Iterator[None]:
    """Have each write to the file fail as on a full disk."""

    def write(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if not full:
        yield
        return
    with mock.patch("sinks.segment._write_some", write):
        yield


if __name__ == "__main__":
    run_alone(rows, __doc__ or "")
