"""One stream that a person reads, written past Python's buffers.

A thread that waits inside a buffered writer holds its lock, and Python aborts at exit because it cannot get it. A
thread that waits in `os.write` holds nothing. A stream without a descriptor of its own (a notebook's, a tee, a test's)
is written as it wants to be, and is trusted not to wait for ever.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import stat
import time
from contextlib import suppress
from typing import Any, TextIO

from sinks.terminal.escape import encodable, known_encoding

#: No later write can succeed: the reader is gone, the descriptor closed. A terminal that hung up gives EIO.
_GONE = frozenset({errno.EPIPE, errno.EBADF, errno.ECONNRESET, errno.ENXIO})
_BREATH_S = 0.005  # a terminal may say it has room, and not have enough: don't ask without a pause
_DEFAULT_COLUMNS = 80


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person's terminal is behind a stream; a closed or odd stream is none."""
    try:
        return stream is not None and stream.isatty()
    except Exception:  # noqa: BLE001 - closed, or not quite a stream: whatever it raises, it is no terminal
        return False


def encoding_of(stream: TextIO | None) -> str:
    """Name a codec that exists, whatever the stream says of itself."""
    return known_encoding(getattr(stream, "encoding", None))


def descriptor_of(stream: TextIO | None) -> int | None:
    """Return the descriptor that a stream stands for, None where it does something of its own with what is written.

    A notebook's stream or a tee has a `fileno` too, and it isn't where its text goes. A patched `write` counts as well.
    """
    if not isinstance(stream, io.TextIOWrapper) or "write" in vars(stream):
        return None
    try:
        raw = getattr(stream.buffer, "raw", stream.buffer)
        return stream.fileno() if isinstance(raw, io.FileIO) else None
    except (OSError, ValueError):
        return None


def same_place(one: TextIO | None, other: TextIO | None) -> bool:
    """Whether two streams end in one place: one pipe or file, or terminals, for a person has one.

    Two objects without a descriptor count as one place too: there is nothing to wait for in them.
    """
    if is_terminal(one) and is_terminal(other):
        return True
    descriptors = descriptor_of(one), descriptor_of(other)
    if None in descriptors:
        return descriptors == (None, None)
    try:
        first, second = (os.fstat(descriptor) for descriptor in descriptors if descriptor is not None)
    except OSError:
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


class Stream:
    """Writes whole texts to a stream. All but `flush` is for one thread, which may wait in `write` for ever.

    Args:
        stream: what to write to; None: nobody reads.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.terminal = is_terminal(stream)
        self.moves = 0  # grows while a reader reads
        self._stream = stream
        self._encoding = encoding_of(stream)
        self._encoder = codecs.getincrementalencoder(self._encoding)(
            "backslashreplace"
        )  # one byte order mark, not many
        self._descriptor = descriptor_of(stream)
        self._own: int | None = None
        self._torn = False

    def flush(self) -> None:
        """Let what was printed before come first, unless nobody is reading."""
        with suppress(Exception):  # what was printed before is not ours to complain of
            if self._stream is not None and self._takes_now():
                self._stream.flush()

    def _takes_now(self) -> bool:
        return self._descriptor is None or bool(_writable(self._descriptor, 0))

    def open(self) -> None:
        """Take a descriptor of our own: should the stream be closed, its number may soon be another file's."""
        if self._descriptor is not None:
            with suppress(OSError):  # none to be had; a closed one shows at the first write
                self._own = os.dup(self._descriptor)

    def close(self) -> None:
        """Give it back."""
        own, self._own = self._own, None
        if own is not None:
            os.close(own)

    def write(self, text: str) -> None:
        """Write a text in one piece if the system takes it so. A half-written one is ended before the next.

        Raises:
            Exception: whatever the stream raises.
        """
        text = "\n" + text if self._torn else text
        if self._descriptor is None:
            self._write_object(text)
        else:
            self._write_bytes(self._descriptor if self._own is None else self._own, text)
        self._torn = False
        self.moves += 1

    def _write_object(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(encodable(text, self._encoding))
            self._stream.flush()

    def _write_bytes(self, descriptor: int, text: str) -> None:
        data = memoryview(self._encoder.encode(encodable(text, self._encoding), final=True))
        while data:
            try:
                taken = os.write(descriptor, data)
            except BlockingIOError:  # another program made the terminal non-blocking
                _writable(descriptor, None)
                time.sleep(_BREATH_S)
                continue
            data = data[taken:]
            self._torn = True
            self.moves += 1

    def is_gone(self, error: Exception) -> bool:
        """Whether no later write can succeed after an error."""
        if isinstance(error, OSError):
            return error.errno in _GONE or (error.errno == errno.EIO and not self._is_file())
        return isinstance(error, ValueError)  # a closed object

    def _is_file(self) -> bool:
        try:
            return self._own is not None and stat.S_ISREG(os.fstat(self._own).st_mode)
        except OSError:
            return False

    def columns(self) -> int:
        """Width of the terminal."""
        try:
            return (
                os.get_terminal_size(self._descriptor if self._descriptor is not None else -1).columns
                or _DEFAULT_COLUMNS
            )
        except OSError:
            return _DEFAULT_COLUMNS


def _writable(descriptor: int, timeout_ms: int | None) -> Any:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll.poll(timeout_ms)
