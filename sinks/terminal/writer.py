"""The thread that writes texts to a stream, with a bounded queue in front.

Callers never wait and never fail. A slow, stopped or closed reader loses texts, and lost texts are counted and
reported. Nothing on the side of the caller takes a lock, because a signal handler or a `__del__` may interrupt any line
and call again. `SimpleQueue.put` is reentrant, and a counter advances in a single call into C.
"""

from __future__ import annotations

import _thread
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from operator import length_hint
from queue import Empty, SimpleQueue
from typing import TextIO

from sinks.terminal.bars import ERASURE, ForeignBars
from sinks.terminal.escape import printable
from sinks.terminal.stream import TextStream
from sinks.terminal.words import count_of

SPEAKER = "higgs-audio-trainer"
_PATIENCE_S = 2.0  # how long `end` waits for a reader that reads nothing
_POLL_S = 0.1  # how often `end` checks the progress
_PAUSE_S = 0.001  # between two looks of `settle`
_TICK_S = 0.25  # how often `watch` is called
_FATAL_SIGNALS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}  # never blocked


class AtomicCounter:
    """Counter with an atomic step, which neither another thread nor a signal handler can split.

    Example:
        >>> counter = AtomicCounter()
        >>> counter.add()
        >>> counter.total
        1
    """

    def __init__(self) -> None:
        self._left = iter(range(sys.maxsize))

    def add(self) -> None:
        """Add 1."""
        next(self._left)

    @property
    def total(self) -> int:
        """Number of calls of `add`."""
        return sys.maxsize - length_hint(self._left)


class Channel:
    """A stream and the counts of the texts for the stream.

    Args:
        stream: Stream to write to; None if nobody reads.
        name: Name of the stream in messages.
        noun: Noun for a text in messages, such as "record".
        elsewhere: End of the message about lost texts, such as another place of the texts.
    """

    def __init__(self, stream: TextIO | None, name: str, noun: str, elsewhere: str = "") -> None:
        self.read = stream is not None
        self.stream = TextStream(stream)
        self.name, self._noun, self._elsewhere = name, noun, elsewhere
        self.given, self.overtaken = AtomicCounter(), AtomicCounter()
        # Written by the thread only:
        self.written = self.failed = self.reported = 0
        self.gone = self.complained = False
        self.why = ""

    @property
    def dropped(self) -> int:
        """Number of texts that the queue displaced or the stream refused."""
        return self.overtaken.total + self.failed

    def describe(self, dropped: int) -> str:
        """Return the message about a number of lost texts."""
        what = f"{count_of(dropped, self._noun)} {'was' if dropped == 1 else 'were'}"
        return f"... {what} not shown on {self.name}: {self.why or 'the reader was too slow'}{self._elsewhere}"

    def failure(self) -> str:
        """Return the message about the first error of the stream."""
        if self.gone:
            return f"{SPEAKER}: {self.name} has no reader any more ({self.why}); training continues"
        return f"{SPEAKER}: cannot write to {self.name} ({self.why}); training continues, later lines are tried again"


_Item = tuple[Channel | None, str, bool]  # channel (None wakes the thread for the status), text, True if counted


class Writer:
    """A thread and a queue of texts, for one stream or for two streams on the same terminal.

    Args:
        channels: Streams of the thread.
        status_on: Channel with the progress line; None if no channel is a terminal.
        capacity: Largest number of waiting texts. A further text displaces the oldest.
        complain: Called with (channel, message) at the first error of a channel.
    """

    def __init__(
        self,
        *channels: Channel,
        status_on: Channel | None,
        capacity: int,
        complain: Callable[[Channel, str], None],
    ) -> None:
        self.status = ""
        self.watch: Callable[[], None] | None = None  # called by the thread while it is set
        self._ticked_at = 0.0
        self._asked = self._answered = 0  # calls of `settle`
        self._channels = channels
        self._status_on = status_on
        self._capacity = capacity
        self._complain = complain
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._unstarted = [self]  # whoever pops the item starts the thread
        self._woken = self._ending = self._ended = False
        self._end: SimpleQueue[None] = SimpleQueue()
        self._drawn = ""
        self._bars = ForeignBars()

    def put(self, channel: Channel | None, text: str, *, counts: bool = False) -> None:
        """Queue a text and displace the oldest texts above the capacity. Safe in threads, handlers and finalizers."""
        self._queue.put((channel, text, counts))
        while channel is not None and self._queue.qsize() > self._capacity:
            try:
                oldest, _, counted = self._queue.get_nowait()
            except Empty:  # the thread was faster
                break
            if oldest is None:
                self._woken = False
            elif counted:
                oldest.overtaken.add()
        if self._unstarted:
            self._start()

    def draw_status(self) -> None:
        """Ask the thread to draw the status. Only a single request waits."""
        if not self._woken:
            self._woken = True
            self.put(None, "")

    def settle(self, seconds: float) -> None:
        """Wait until the status of this moment is drawn, or until the reader is too slow."""
        deadline = time.monotonic() + seconds
        self._asked += 1
        self.put(None, "")
        while self._answered < self._asked and not self._ended and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)

    def end(self, deadline: float) -> None:
        """Wait until all texts are written, until the reader stops reading, or until the deadline.

        Args:
            deadline: Latest end on the clock `time.monotonic`, in seconds.
        """
        if self._unstarted:
            return
        self._ending = True
        self.put(None, "")
        moves, since = self._moves(), time.monotonic()
        while not self._ended and time.monotonic() < min(deadline, since + _PATIENCE_S):
            with suppress(Empty):
                self._end.get(timeout=_POLL_S)
            if self._moves() != moves:
                moves, since = self._moves(), time.monotonic()

    def _moves(self) -> int:
        return sum(channel.stream.moves for channel in self._channels)

    def _start(self) -> None:
        # Not `threading.Thread`: `start` waits, and takes a lock that the interrupted code may hold.
        try:
            token = self._unstarted.pop()
        except IndexError:  # another caller was faster
            return
        for channel in self._channels:
            channel.stream.flush()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no thread is available, or Python is ending; the next text tries again
            self._unstarted.append(token)

    def _run(self) -> None:
        # Python handles signals in the main thread. A fatal SIGPIPE becomes EPIPE here.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FATAL_SIGNALS)
        for opened in self._channels:
            opened.stream.open()
        while not (self._ending and self._queue.empty()):
            with suppress(Empty):
                channel, text, counts = self._queue.get(timeout=None if self.watch is None else _TICK_S)
                if channel is None:
                    self._woken = False
                else:
                    self._deliver(channel, text, counts=counts)
            self._tick()
            if self._queue.empty():  # waiting records go before the progress line
                asked = self._asked
                self._draw(self.status)
                self._answered = asked
        self._finish()

    def _tick(self) -> None:
        watch, now = self.watch, time.monotonic()
        if watch is not None and now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            watch()

    def _deliver(self, channel: Channel, text: str, *, counts: bool) -> None:
        self._draw("")
        if self._report_dropped(channel, on=channel) and self._write(channel, text + "\n"):
            channel.written += counts
        else:
            channel.failed += counts

    def _finish(self) -> None:
        self._draw("")
        for channel in self._channels:
            # On the channel of the lost texts if possible, or else on the other channel of this terminal.
            any(self._report_dropped(channel, on=on) for on in (channel, *self._channels))
        for channel in self._channels:
            channel.stream.close()
        self._ended = True
        self._end.put(None)

    def _report_dropped(self, channel: Channel, *, on: Channel) -> bool:
        """Report texts that were lost since the last report. Return True if every loss is reported."""
        dropped = channel.dropped
        if dropped == channel.reported:
            return True
        if not self._write(on, channel.describe(dropped - channel.reported) + "\n"):
            return False
        channel.reported, channel.why = dropped, ""
        return True

    def _draw(self, status: str) -> None:
        """Draw the status over the previous status. The cursor stays at the end, or on an empty line."""
        channel = self._status_on
        if channel is None or not (status or self._drawn):
            return
        if self._bars.are_drawn():  # on the line of the status
            status = ""
        shown = printable(status)[: max(channel.stream.columns() - 1, 0)]
        if shown == self._drawn:
            return
        wipe = f"\r{' ' * len(self._drawn)}\r" if len(self._drawn) > len(shown) else ""
        self._write(channel, wipe + (f"\r{shown}" if shown else ""))
        self._drawn = shown

    def _write(self, channel: Channel, text: str) -> bool:
        if channel.gone:
            return False
        try:
            if channel.stream.terminal and self._bars.need_room():
                channel.stream.write_above(text, ERASURE, self._bars.aside)
            else:
                channel.stream.write(text)
        except Exception as error:  # noqa: BLE001 - any exception of a stream is counted and reported once
            channel.gone = channel.stream.is_gone(error)
            channel.why = (error.strerror if isinstance(error, OSError) else None) or printable(
                f"{type(error).__name__}: {error}"
            )
            if not channel.complained:
                channel.complained = True
                self._complain(channel, channel.failure())
            return False
        return True
