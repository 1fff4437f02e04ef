"""A sink behind a bounded queue. The caller never waits and never fails, whatever the sink does.

A thread takes the records out of the queue. The call takes no lock, because a signal handler may interrupt any line of
the call. `SimpleQueue.put` is reentrant, and each count has one writer.
"""

from __future__ import annotations

import _thread
import atexit
import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from sinks.null import null_sink
from sinks.protocol import Record, Sink
from sinks.retry import Retry
from sinks.terminal.escape import printable
from sinks.terminal.words import count_of

_CAPACITY = 1024
_PATIENCE_S = 10.0  # how long `close` waits; the end of a tracker may write buffered records
_LONGEST_REASON = 300


class Queued:
    """Sink that gives each record to another sink, in order, from a thread that starts with the first record.

    A record is lost if the queue is full, or if the other sink raises. A second attempt might store a part of the
    record twice. The first failure is reported. After several failures in a row the thread waits up to 5 s before the
    next record. In a forked child the sink does nothing, and in a pickle the sink becomes the null sink.

    Args:
        sink: Sink for the records. The thread also calls the `close` of the sink, if any.
        name: Name of the sink in messages.
        say: Prints a line for a person. Never raises.
        admit: Returns the record to queue, or None to skip the record.
        capacity: Largest number of waiting records.
        patience_s: Longest wait of `close`, in seconds.
        clock: Monotonic clock, in seconds.

    Example:
        >>> from sinks.memory import MemorySink
        >>> memory = MemorySink()
        >>> queued = Queued(memory, name="memory", say=print)
        >>> queued({"event": "checkpoint", "path": "checkpoint-20"})
        >>> queued.close()
        >>> memory.records, queued.dropped
        ([{'event': 'checkpoint', 'path': 'checkpoint-20'}], 0)
    """

    def __init__(
        self,
        sink: Sink,
        *,
        name: str,
        say: Callable[[str], None],
        admit: Callable[[Record], Record | None] = lambda record: record,
        capacity: int = _CAPACITY,
        patience_s: float = _PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._name = name
        self._say = say
        self._admit = admit
        self._capacity = capacity
        self._patience_s = patience_s
        self._pid = os.getpid()
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        self._unstarted = [self]  # whoever pops the item starts the thread
        self._ending, self._ended = threading.Event(), threading.Event()
        self._given = self._refused = 0  # written by the caller
        self._closed = False
        self._retry = Retry(clock)
        self._taken = self._failed = 0  # written by the thread
        self._complained = False
        self._reason = "no answer in time"

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the null sink in a pickle or a copy, because the run of a tracker has a single writer."""
        return null_sink, ()

    @property
    def dropped(self) -> int:
        """Number of lost records. After `close`, waiting records count as lost."""
        return self._given - self._taken if self._closed else self._refused + self._failed

    def __call__(self, record: Record) -> None:
        """Queue a record."""
        if os.getpid() != self._pid:
            return
        admitted = self._admit(record)
        if admitted is None:
            return
        self._given += 1
        if self._closed:
            return
        if self._queue.qsize() >= self._capacity:
            self._refused += 1
            return
        self._queue.put(admitted)
        if self._unstarted:
            self._start()

    def close(self) -> None:
        """Wait for the queued records, for a bounded time, and report the number of lost records."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if not self._unstarted:
            self._ending.set()
            self._queue.put(None)
            self._ended.wait(self._patience_s)
        if dropped := self.dropped:
            self._say(f"higgs-audio-trainer: {count_of(dropped, 'event')} did not reach {self._name}: {self._reason}")

    def _start(self) -> None:
        # Not `threading.Thread`, whose `start` waits for the thread and takes a lock.
        try:
            token = self._unstarted.pop()
        except IndexError:  # another caller was faster
            return
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:  # no thread is available, or Python is ending; the next record tries again
            self._reason = str(error)
            self._unstarted.append(token)
            return
        atexit.register(self.close)  # for queued records if nobody calls `close`

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            self._ending.wait(self._retry.wait_s)  # without a wait once `close` is called
            if self._succeeds(self._sink, record):
                self._taken += 1
            else:
                self._failed += 1
        self._succeeds(getattr(self._sink, "close", _nothing_to_close))
        self._ended.set()

    def _succeeds(self, call: Callable[..., None], *arguments: Record) -> bool:
        try:
            call(*arguments)
        except BaseException as error:  # noqa: BLE001 - even a SystemExit of a tracker is counted and reported
            self._reason = _described(error)
            self._retry.failed(OSError(errno.EIO, self._reason))
            if not self._complained:
                self._complained = True
                self._say(
                    f"higgs-audio-trainer: logging to {self._name} failed: {self._reason}; training continues, "
                    "later events are tried, and lost events are counted."
                )
            return False
        self._retry.worked()
        return True


def _described(error: BaseException) -> str:
    with suppress(Exception):  # the description of an exception may raise
        return printable(f"{type(error).__name__}: {error}", longest=_LONGEST_REASON)
    return type(error).__name__


def _nothing_to_close() -> None:
    pass
