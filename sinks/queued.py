"""A sink behind a bounded queue: whoever calls it never waits and never fails, whatever the sink does.

One thread of its own takes the records out. Nothing here takes a lock in the call, for a signal handler may interrupt
any line of it: `SimpleQueue.put` may be interrupted so, and each count has one writer.
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

from sinks.null import discard
from sinks.protocol import Record, Sink
from sinks.retry import Retry
from sinks.terminal.escape import printable

_CAPACITY = 1024
_PATIENCE_S = 10.0  # how long `close` waits: a tracker's own end may write what it held back
_LONGEST_REASON = 300


class Queued:
    """Hands each record to a sink, in order, from a thread that starts with the first one.

    A record that finds the queue full is lost. So is one that the sink raises for: it may have taken a part of it, and
    a second try would take that twice. The first failure is said; after more in a row the thread waits before it tries
    the next record, up to 5 s. In a forked child nothing happens, and pickled it becomes the null sink.

    Args:
        sink: what takes the records; its `close`, if it has one, is called by the thread too.
        name: of the sink, for what is said.
        say: tells a person one line; never raises.
        admit: makes of a record what is queued; None: the sink has no use for it.
        capacity: how many records wait at most.
        patience_s: how long `close` waits.
        clock: seconds that only go forward.
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
        self._unstarted = [self]  # who takes it out starts the thread
        self._ending, self._ended = threading.Event(), threading.Event()
        self._given = self._refused = 0  # the caller's own
        self._closed = False
        self._retry = Retry(clock)
        self._taken = self._failed = 0  # the thread's own
        self._complained = False
        self._reason = "it did not answer in time"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as the null sink: a tracker's run has one writer."""
        return _in_another_process, ()

    @property
    def dropped(self) -> int:
        """Records that the sink did not take and, after `close`, those that it has not taken by now."""
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
        """Wait for the rest, for a bounded time, and say what was lost."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if not self._unstarted:
            self._ending.set()
            self._queue.put(None)
            self._ended.wait(self._patience_s)
        if dropped := self.dropped:
            events = "1 event" if dropped == 1 else f"{dropped:,} events"
            self._say(f"higgs-audio-trainer: {events} did not reach {self._name}: {self._reason}")

    def _start(self) -> None:
        # Not `threading.Thread`: its `start` waits for the thread, and takes a lock.
        try:
            token = self._unstarted.pop()
        except IndexError:  # another was faster
            return
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:  # no thread to be had, or Python is ending; the next record tries again
            self._reason = str(error)
            self._unstarted.append(token)
            return
        atexit.register(self.close)  # so that the rest is taken where nobody closes

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            self._ending.wait(self._retry.wait_s)  # at the end there is no time to wait
            if self._succeeds(self._sink, record):
                self._taken += 1
            else:
                self._failed += 1
        self._succeeds(getattr(self._sink, "close", _nothing_to_close))
        self._ended.set()

    def _succeeds(self, call: Callable[..., None], *arguments: Record) -> bool:
        try:
            call(*arguments)
        except BaseException as error:  # noqa: BLE001 - also a tracker's SystemExit: counted, said, kept from training
            self._reason = _described(error)
            self._retry.failed(OSError(errno.EIO, self._reason))
            if not self._complained:
                self._complained = True
                self._say(
                    f"higgs-audio-trainer: logging to {self._name} failed: {self._reason}; training goes on and tries "
                    "again, and what is lost is counted."
                )
            return False
        self._retry.worked()
        return True


def _described(error: BaseException) -> str:
    with suppress(Exception):  # an exception's own description may raise
        return printable(f"{type(error).__name__}: {error}", longest=_LONGEST_REASON)
    return type(error).__name__


def _nothing_to_close() -> None:
    pass


def _in_another_process() -> Sink:
    return discard
