"""The terminal that a run shares: records, notices and the progress line, in one order.

Whoever calls a `Screen` neither waits nor fails: a thread of its own writes, and a reader that is slow, stopped or gone
costs what it did not read, which is counted and said. Nothing here takes a lock, for a signal handler or a `__del__`
may interrupt any line and call in again: `SimpleQueue.put` may be interrupted so, and counting is one call into C.
"""

from __future__ import annotations

import _thread
import atexit
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import length_hint
from queue import Empty, SimpleQueue
from typing import TextIO

from sinks.terminal.escape import printable
from sinks.terminal.stream import Stream, encoding_of, is_terminal, same_place

_PATIENCE_S = 2.0  # how long `close` waits for a reader that takes nothing
_PATIENCE_IN_ALL_S = 10.0  # ... and for one that takes little
_GLANCE_S = 0.1  # how often it looks
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}  # never blocked
_LONGEST_NOTE = 4_000
_SPEAKER = "higgs-audio-trainer"


def say_on_stderr(text: str) -> None:
    """Say one line on stderr; where it is closed or gone, there is nowhere left to say it.

    Nothing stays in Python's buffer, whose last flush would fail and make the exit status 120.
    """
    stream = Stream(sys.stderr)
    stream.flush()
    with suppress(Exception):
        stream.write(text + "\n")


class _Tally:
    """Counts in one step that neither another thread nor a signal handler can split."""

    def __init__(self) -> None:
        self._left = iter(range(sys.maxsize))

    def add(self) -> None:
        next(self._left)

    @property
    def total(self) -> int:
        return sys.maxsize - length_hint(self._left)


class _Channel:
    """What goes to one stream, and what became of it."""

    def __init__(self, stream: TextIO | None, name: str, noun: str, elsewhere: str = "") -> None:
        self.read = stream is not None
        self.stream = Stream(stream)
        self.name, self._noun, self._elsewhere = name, noun, elsewhere
        self.given, self.overtaken = _Tally(), _Tally()
        # The writer's own:
        self.written = self.failed = self.said = 0
        self.gone = self.complained = False
        self.why = ""

    @property
    def dropped(self) -> int:
        return self.overtaken.total + self.failed

    def describe(self, dropped: int) -> str:
        what = f"1 {self._noun} was" if dropped == 1 else f"{dropped:,} {self._noun}s were"
        return f"... {what} not shown on {self.name}: {self.why or 'the reader was too slow'}{self._elsewhere}"


_Item = tuple[_Channel | None, str, bool]  # where to (None: look at the status), what, and whether it counts


class _Writer:
    """A thread and the queue of what it has to write: for one stream, or for two that are one terminal.

    Args:
        channels: what it writes to.
        status_on: which of them has the progress line.
        capacity: how many texts wait at most; then the oldest is dropped.
        complain: told `(channel, text)` when a channel cannot be written.
    """

    def __init__(
        self,
        *channels: _Channel,
        status_on: _Channel | None,
        capacity: int,
        complain: Callable[[_Channel, str], None],
    ) -> None:
        self.status = ""
        self._channels = channels
        self._status_on = status_on
        self._capacity = capacity
        self._complain = complain
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._unstarted = [self]  # who takes it out starts the thread
        self._woken = self._ending = self._ended = False
        self._end: SimpleQueue[None] = SimpleQueue()
        self._drawn = ""

    def put(self, channel: _Channel | None, text: str, *, counts: bool = False) -> None:
        """Queue a text and take the oldest away if there are too many. From any thread, handler or finalizer."""
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

    def look(self) -> None:
        """Have the status drawn; one request waits at most."""
        if not self._woken:
            self._woken = True
            self.put(None, "")

    def _start(self) -> None:
        # Not `threading.Thread`: its `start` waits, and takes a lock that the code we interrupted may hold.
        try:
            token = self._unstarted.pop()
        except IndexError:  # another was faster
            return
        for channel in self._channels:
            channel.stream.flush()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no thread to be had, or Python is ending; the next text tries again
            self._unstarted.append(token)

    def _run(self) -> None:
        # A signal goes to the thread that Python answers it in; SIGPIPE, where it is deadly, becomes EPIPE here.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        for opened in self._channels:
            opened.stream.open()
        while not (self._ending and self._queue.empty()):
            channel, text, counts = self._queue.get()
            if channel is None:
                self._woken = False
            else:
                self._deliver(channel, text, counts=counts)
            if self._queue.empty():  # a record that waits goes before the bar
                self._draw(self.status)
        self._finish()

    def _deliver(self, channel: _Channel, text: str, *, counts: bool) -> None:
        self._draw("")
        if self._say_dropped(channel, on=channel) and self._write(channel, text + "\n"):
            channel.written += counts
        else:
            channel.failed += counts

    def _finish(self) -> None:
        self._draw("")
        for channel in self._channels:
            # Where it was missing, if that can be; or else where the other half of the run is read.
            any(self._say_dropped(channel, on=on) for on in (channel, *self._channels))
        for channel in self._channels:
            channel.stream.close()
        self._ended = True
        self._end.put(None)

    def _say_dropped(self, channel: _Channel, *, on: _Channel) -> bool:
        """Say what was dropped since it was last said; return whether nothing is left to say."""
        dropped = channel.dropped
        if dropped == channel.said:
            return True
        if not self._write(on, channel.describe(dropped - channel.said) + "\n"):
            return False
        channel.said, channel.why = dropped, ""
        return True

    def _draw(self, status: str) -> None:
        """Draw the status over the one that is there; the cursor stays behind it, or at the start of an empty line."""
        channel = self._status_on
        if channel is None or not (status or self._drawn):
            return
        shown = printable(status)[: max(channel.stream.columns() - 1, 0)]
        if shown == self._drawn:
            return
        wipe = f"\r{' ' * len(self._drawn)}\r" if len(self._drawn) > len(shown) else ""
        self._write(channel, wipe + (f"\r{shown}" if shown else ""))
        self._drawn = shown

    def _write(self, channel: _Channel, text: str) -> bool:
        if channel.gone:
            return False
        try:
            channel.stream.write(text)
        except Exception as error:  # noqa: BLE001 - whatever a stream raises is counted, said once and kept from training
            channel.gone = channel.stream.is_gone(error)
            channel.why = _reason(error)
            if not channel.complained:
                channel.complained = True
                self._complain(channel, _complaint(channel))
            return False
        return True

    def end(self, deadline: float) -> None:
        """Wait until all is written, while somebody reads, and no longer than the deadline."""
        if self._unstarted:
            return
        self._ending = True
        self.put(None, "")
        moves, since = self._moves(), time.monotonic()
        while not self._ended and time.monotonic() < min(deadline, since + _PATIENCE_S):
            with suppress(Empty):
                self._end.get(timeout=_GLANCE_S)
            if self._moves() != moves:
                moves, since = self._moves(), time.monotonic()

    def _moves(self) -> int:
        return sum(channel.stream.moves for channel in self._channels)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or printable(f"{type(error).__name__}: {error}")


def _complaint(channel: _Channel) -> str:
    if channel.gone:
        return f"{_SPEAKER}: nobody reads {channel.name} any more ({channel.why}); training goes on"
    return f"{_SPEAKER}: {channel.name} cannot be written ({channel.why}); training goes on and tries again"


class Screen:
    """Writes records to one stream, notices and a progress line to another.

    No method waits for a reader or raises; each may be called from any thread, from a signal handler and from
    `__del__`. In a forked child each does nothing.

    Args:
        out: where records go; None: nobody reads, and nothing counts as dropped.
        err: where notices and the progress line go; None: nobody reads.
        capacity: how many texts wait for a slow reader at most; then the oldest is dropped.

    Attributes:
        out: where records go.
    """

    def __init__(self, out: TextIO | None, err: TextIO | None, *, capacity: int = 256) -> None:
        self.out = out
        self._err = err
        self._pid = os.getpid()
        self._closed = False
        self._unregistered = [self]
        self._records = _Channel(out, "stdout", "record", "; a log file, if there is one, has them")
        self._notes = _Channel(err, "stderr", "notice")
        status_on = self._notes if self._notes.stream.terminal else None
        writer = partial(_Writer, capacity=capacity, complain=self._complain)
        if same_place(out, err):
            self._of_records = self._of_notes = writer(self._records, self._notes, status_on=status_on)
        else:
            # Each its own thread: a pipe whose reader stopped must not hold up the notices on the terminal.
            self._of_records = writer(self._records, status_on=None)
            self._of_notes = writer(self._notes, status_on=status_on)

    @property
    def dropped(self) -> int:
        """Texts of `show` that were not shown, and will not be."""
        if self._closed:
            return self._records.given.total - self._records.written
        return self._records.dropped

    def show(self, text: str) -> None:
        """Show a record's lines. They are written as they are: escape what came from data."""
        self._give(self._of_records, self._records, text)

    def note(self, text: str) -> None:
        """Say one line to the person who runs it; controls are escaped."""
        self._give(self._of_notes, self._notes, printable(text, longest=_LONGEST_NOTE))

    def status(self, text: str) -> None:
        """Have one line stand below all others, on a terminal only; the latest wins, "" takes it away."""
        if self._notes.stream.terminal and not self._closed and os.getpid() == self._pid:
            self._of_notes.status = text
            self._of_notes.look()

    def status_stream(self) -> StatusStream:
        """Make the `file` of a tqdm bar: what the bar writes becomes the status."""
        return StatusStream(self, self._err)

    def close(self) -> None:
        """Wait for what is still to be shown, at most 2 s for a reader that takes nothing and 10 s in all."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        deadline = time.monotonic() + _PATIENCE_IN_ALL_S
        self._of_records.end(deadline)
        if self._of_notes is self._of_records:
            return
        missing = self.dropped - self._records.said  # what could not be said where it was missing
        if missing:
            self._of_notes.put(self._notes, f"{_SPEAKER}: {self._records.describe(missing)}")
        self._of_notes.end(deadline)

    def _give(self, writer: _Writer, channel: _Channel, text: str) -> None:
        if not channel.read or os.getpid() != self._pid:
            return
        channel.given.add()
        if self._closed:
            return
        if self._unregistered:
            with suppress(IndexError):  # a handler was faster
                self._unregistered.pop()
                atexit.register(self.close)  # so that the tail is shown where nobody closes
        writer.put(channel, text, counts=True)

    def _complain(self, channel: _Channel, text: str) -> None:
        """Say on the other stream that one cannot be written. Called by a writer."""
        if channel is self._records:
            self._of_notes.put(self._notes, text)
        else:
            self._of_records.put(self._records, text)


class StatusStream:
    """What a tqdm bar takes for a file: one line that is drawn over again. Nested bars are not for it."""

    def __init__(self, screen: Screen, err: TextIO | None) -> None:
        self._screen = screen
        self._err = err
        self._last = ""
        self.encoding = encoding_of(err)

    def write(self, text: str) -> int:
        """Take what a bar draws: a carriage return and a line, blanks to take it away, a newline to leave it."""
        line = text.rpartition("\r")[2]
        if line.endswith("\n"):
            self._screen.note(line.rstrip() or self._last)
            line = ""
        if text:
            self._last = line.rstrip()
            self._screen.status(self._last)
        return len(text)

    def flush(self) -> None:
        """Do nothing: a thread writes."""

    def isatty(self) -> bool:
        """Whether there is a terminal to draw on."""
        return is_terminal(self._err)

    def fileno(self) -> int:
        """Return the terminal's descriptor, for its width.

        Raises:
            OSError: it has none.
        """
        if self._err is None:
            raise io.UnsupportedOperation("fileno")
        return self._err.fileno()
