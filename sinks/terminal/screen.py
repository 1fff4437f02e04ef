"""The terminal of a run, shared by records, notices and the progress line."""

from __future__ import annotations

import atexit
import io
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TextIO

from sinks.terminal.escape import printable
from sinks.terminal.fold import fitted
from sinks.terminal.stream import TextStream, encoding_of, is_terminal, same_place
from sinks.terminal.writer import SPEAKER, Channel, Writer

_LONGEST_WAIT_S = 10.0  # of `close`, for all streams together
_LONGEST_NOTE = 4_000
_MOMENT_S = 0.3


def say_on_stderr(text: str) -> None:
    """Print lines on stderr, folded to a terminal, and ignore a closed or broken stderr.

    Nothing stays in Python's buffer. A failed flush at exit would make the exit status 120.
    """
    stream = TextStream(sys.stderr)
    stream.flush()
    with suppress(Exception):
        stream.write(fitted(text, sys.stderr) + "\n")


class Screen:
    r"""Writer of records to one stream, and of notices and a progress line to another stream.

    No method waits for a reader or raises. Each method may be called from any thread, from a signal handler and from
    `__del__`. In a forked child each method does nothing.

    Args:
        out: Stream of the records; None if nobody reads, then no record counts as dropped.
        err: Stream of the notices and the progress line; None if nobody reads.
        capacity: Largest number of texts that wait for a slow reader. A further text displaces the oldest.

    Attributes:
        out: Stream of the records.

    Example:
        >>> screen = Screen(io.StringIO(), None)
        >>> screen.show("saved checkpoint-20")
        >>> screen.close()
        >>> screen.out.getvalue(), screen.dropped
        ('saved checkpoint-20\n', 0)
    """

    def __init__(self, out: TextIO | None, err: TextIO | None, *, capacity: int = 256) -> None:
        self.out = out
        self._err = err
        self._pid = os.getpid()
        self._closed = False
        self._bar = self._phase = ""
        self._unregistered = [self]
        self._records = Channel(out, "stdout", "record", "; a log file, if there is one, has them")
        self._notes = Channel(err, "stderr", "notice")
        status_on = self._notes if self._notes.stream.terminal else None
        writer = partial(Writer, capacity=capacity, complain=self._complain)
        if same_place(out, err):
            self._of_records = self._of_notes = writer(self._records, self._notes, status_on=status_on)
        else:
            # One thread each: a pipe without a reader must not delay notices on the terminal.
            self._of_records = writer(self._records, status_on=None)
            self._of_notes = writer(self._notes, status_on=status_on)

    @property
    def dropped(self) -> int:
        """Number of texts of `show` that are lost."""
        if self._closed:
            return self._records.given.total - self._records.written
        return self._records.dropped

    def show(self, text: str) -> None:
        """Print the lines of a record unchanged. The caller escapes text that comes from data."""
        self._give(self._of_records, self._records, text)

    def note(self, text: str) -> None:
        """Print a notice, with control characters escaped, folded to a terminal."""
        self._give(self._of_notes, self._notes, fitted(printable(text, longest=_LONGEST_NOTE), self._err))

    @property
    def has_status(self) -> bool:
        """True if notices go to a terminal, where a line can stay below all others."""
        return self._notes.stream.terminal

    def status(self, text: str) -> None:
        """Keep a line below all others, on a terminal only. A new text replaces the line, and "" removes the line."""
        self._bar = text
        self._draw_status()

    def phase(self, text: str) -> None:
        """Keep a line in the place of the status, whose line returns with ""."""
        self._phase = text
        self._draw_status()

    def watch(self, call: Callable[[], None] | None) -> None:
        """Let the thread of the notices call a function a few times a second. None ends the calls."""
        if self._notes.read and not self._closed and os.getpid() == self._pid:
            self._of_notes.watch = call
            self._of_notes.draw_status()

    def settle(self) -> None:
        """Wait a moment until the line below all others is as it should be."""
        if self.has_status and not self._closed and os.getpid() == self._pid:
            self._of_notes.settle(_MOMENT_S)

    def _draw_status(self) -> None:
        if self.has_status and not self._closed and os.getpid() == self._pid:
            self._of_notes.status = self._phase or self._bar
            self._of_notes.draw_status()

    def status_stream(self) -> StatusStream:
        """Return a `file` for a tqdm bar. The output of the bar becomes the status."""
        return StatusStream(self, self._err)

    def close(self) -> None:
        """Wait until all texts are written, at most 2 s for a reader that reads nothing and 10 s in all."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        deadline = time.monotonic() + _LONGEST_WAIT_S
        self._of_records.end(deadline)
        if self._of_notes is self._of_records:
            return
        missing = self.dropped - self._records.reported  # losses that stdout could not report
        if missing:
            self._of_notes.put(self._notes, f"{SPEAKER}: {self._records.describe(missing)}")
        self._of_notes.end(deadline)

    def _give(self, writer: Writer, channel: Channel, text: str) -> None:
        if not channel.read or os.getpid() != self._pid:
            return
        channel.given.add()
        if self._closed:
            return
        if self._unregistered:
            with suppress(IndexError):  # a signal handler was faster
                self._unregistered.pop()
                atexit.register(self.close)  # shows the last texts if nobody calls `close`
        writer.put(channel, text, counts=True)

    def _complain(self, channel: Channel, text: str) -> None:
        """Report on the other stream that a stream cannot be written. Called by the thread of a writer."""
        if channel is self._records:
            self._of_notes.put(self._notes, text)
        else:
            self._of_records.put(self._records, text)


class StatusStream:
    """The `file` of a tqdm bar. A bar redraws a single line, so nested bars are not supported."""

    is_status = True  # tells the bars of this program from bars that other code draws on the terminal

    def __init__(self, screen: Screen, err: TextIO | None) -> None:
        self._screen = screen
        self._err = err
        self._last = ""
        self.encoding = encoding_of(err)

    def write(self, text: str) -> int:
        """Take the output of a bar: a carriage return and a line, blanks that clear the line, or a final newline."""
        line = text.rpartition("\r")[2]
        if line.endswith("\n"):
            self._screen.note(line.rstrip() or self._last)
            line = ""
        if text:
            self._last = line.rstrip()
            self._screen.status(self._last)
        return len(text)

    def flush(self) -> None:
        """Do nothing, because a thread writes."""

    def isatty(self) -> bool:
        """Return True if stderr is a terminal."""
        return is_terminal(self._err)

    def fileno(self) -> int:
        """Return the descriptor of stderr. From the descriptor tqdm finds the width.

        Raises:
            OSError: Stderr has no descriptor.
        """
        if self._err is None:
            raise io.UnsupportedOperation("fileno")
        return self._err.fileno()
