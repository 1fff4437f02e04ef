"""Reading of many small files, by several threads where the disk is slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_TRIED, _THREADS = 200, 16

F = TypeVar("F")
T = TypeVar("T")


def map_files(read: Callable[[F], T], files: Sequence[F]) -> Iterator[T]:
    """Yield what a function reads of each file, in order.

    This thread reads the first files. If the thread mostly waits for them, as for a disk behind a network, several
    threads read the rest. Of a fast disk one thread reads more.

    Args:
        read: Reads a file. Other threads call the function at the same time.
        files: Files, or whatever the function takes.

    Example:
        >>> list(map_files(len, ["a", "bc"]))
        [1, 2]
    """
    begun, begun_cpu = time.perf_counter(), time.thread_time()
    first, rest = [read(file) for file in files[:_TRIED]], files[_TRIED:]
    cpu_s = time.thread_time() - begun_cpu
    waited_s = time.perf_counter() - begun - cpu_s
    yield from first
    if waited_s <= cpu_s:
        yield from map(read, rest)
        return
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(read, rest)
