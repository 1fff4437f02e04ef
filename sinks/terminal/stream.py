"""A text stream written without Python's buffers.

A thread that waits inside a buffered writer holds the lock of the buffer, and Python aborts at exit without the lock. A
thread that waits in `os.write` holds no lock. A stream without a descriptor, such as the stream of a notebook, a
tee or a test, is written by the `write` of the stream. Such a `write` must not wait for ever.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, TextIO

from sinks.terminal.escape import encodable_text, known_encoding

#: No later write can succeed, because the reader is gone or the descriptor is closed. A closed terminal gives EIO.
_GONE = frozenset({errno.EPIPE, errno.EBADF, errno.ECONNRESET, errno.ENXIO})
_PAUSE_S = 0.005  # between attempts, because a terminal may report room and still refuse a write
_DEFAULT_COLUMNS = 80
_LONG_LINE = 4_000  # bytes; a terminal takes a shorter line at once

Aside = Callable[[], AbstractContextManager[str]]


def is_terminal(stream: TextIO | None) -> bool:
    """Return True if a stream is a terminal, False for a closed or incomplete stream.

    Example:
        >>> is_terminal(io.StringIO()), is_terminal(None)
        (False, False)
    """
    try:
        return stream is not None and stream.isatty()
    except Exception:  # noqa: BLE001 - any exception of a closed or incomplete stream means no terminal
        return False


def encoding_of(stream: TextIO | None) -> str:
    """Return the name of an existing codec for a stream.

    Example:
        >>> encoding_of(None), encoding_of(io.TextIOWrapper(io.BytesIO(), "latin-1"))
        ('utf-8', 'latin-1')
    """
    return known_encoding(getattr(stream, "encoding", None))


def descriptor_of(stream: TextIO | None) -> int | None:
    """Return the descriptor that a stream writes to, or None for a stream with another `write`.

    The `fileno` of a notebook's stream or of a tee is not the target of the text. A patched `write` gives None too.
    """
    if not isinstance(stream, io.TextIOWrapper) or "write" in vars(stream):
        return None
    try:
        raw = getattr(stream.buffer, "raw", stream.buffer)
        return stream.fileno() if isinstance(raw, io.FileIO) else None
    except (OSError, ValueError):
        return None


def same_place(one: TextIO | None, other: TextIO | None) -> bool:
    """Return True if two streams end in the same file or pipe, or if both are terminals.

    A person is assumed to have a single terminal. Two streams without descriptors also count as one place, because
    neither makes a writer wait.
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


class TextStream:
    """Writer of whole texts. One thread calls all methods but `flush`, and may wait in `write` for ever.

    Args:
        stream: Stream to write to; None if nobody reads.

    Attributes:
        terminal: True if the stream is a terminal.
        moves: Number that grows while a reader reads.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.terminal = is_terminal(stream)
        self.moves = 0
        self._stream = stream
        self._encoding = encoding_of(stream)
        # Incremental, so that UTF-16 gets one byte order mark instead of one mark in each text.
        self._encoder = codecs.getincrementalencoder(self._encoding)("backslashreplace")
        self._descriptor = descriptor_of(stream)
        self._own: int | None = None
        self._prompt: int | None = None  # descriptor of the terminal whose writes do not wait
        self._torn = False

    def flush(self) -> None:
        """Flush text that was printed before, unless the reader is too slow."""
        with suppress(Exception):  # earlier text belongs to other code
            if self._stream is not None and self._takes_now():
                self._stream.flush()

    def _takes_now(self) -> bool:
        return self._descriptor is None or bool(_writable(self._descriptor, 0))

    def open(self) -> None:
        """Duplicate the descriptor. After a close by other code, the number may soon belong to another file."""
        if self._descriptor is not None:
            with suppress(OSError):  # no descriptor is left, or the first write reports a closed one
                self._own = os.dup(self._descriptor)
        if self._descriptor is not None and self.terminal:
            # Not `os.set_blocking`, which would change the terminal for other descriptors and programs too.
            with suppress(OSError):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._prompt = os.open(os.ttyname(self._descriptor), flags)

    def close(self) -> None:
        """Close the descriptors of `open`."""
        opened, self._own, self._prompt = (self._own, self._prompt), None, None
        for descriptor in opened:
            if descriptor is not None:
                os.close(descriptor)

    def write(self, text: str) -> None:
        """Write a text, in a single system call if possible. A newline ends a half-written text before the next text.

        Raises:
            Exception: Any exception of the stream.
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
            self._stream.write(encodable_text(text, self._encoding))
            self._stream.flush()

    def _write_bytes(self, descriptor: int, text: str) -> None:
        data = memoryview(self._encoded(text))
        while data:
            try:
                taken = os.write(descriptor, data)
            except BlockingIOError:  # another program made the terminal non-blocking
                _writable(descriptor, None)
                time.sleep(_PAUSE_S)
                continue
            data = data[taken:]
            self._torn = True
            self.moves += 1

    def write_above(self, text: str, erasure: str, aside: Aside) -> None:
        """Write a text above the bars that other code draws on this terminal.

        Inside `aside` no write waits. A terminal that takes a part of a line gets the line again from the beginning.

        Args:
            text: Text of whole lines.
            erasure: Text that removes the bars.
            aside: Returns a context that keeps the bars from being drawn, and yields the text that draws the bars.

        Raises:
            Exception: Any exception of the stream.
        """
        if self._prompt is None:
            with aside() as bars:
                pass
            self.write(erasure + text + bars)
            return
        rest = self._encoded(text)
        while True:
            _writable(self._prompt, None)
            with aside() as bars:
                before, after = self._encoded(erasure), self._encoded(bars)
                taken = max(0, _written_now(self._prompt, before + rest + after) - len(before))
            self.moves += 1
            if taken >= len(rest):
                return
            lines = rest.rfind(b"\n", 0, taken) + 1
            rest = rest[lines if taken - lines < _LONG_LINE else taken :]
            time.sleep(_PAUSE_S)

    def _encoded(self, text: str) -> bytes:
        return self._encoder.encode(encodable_text(text, self._encoding), final=True)

    def is_gone(self, error: Exception) -> bool:
        """Return True if no later write can succeed after an error."""
        if isinstance(error, OSError):
            return error.errno in _GONE or (error.errno == errno.EIO and not self._is_file())
        return isinstance(error, ValueError)  # a closed object

    def _is_file(self) -> bool:
        try:
            return self._own is not None and stat.S_ISREG(os.fstat(self._own).st_mode)
        except OSError:
            return False

    def columns(self) -> int:
        """Return the width of the terminal in columns."""
        try:
            return (
                os.get_terminal_size(self._descriptor if self._descriptor is not None else -1).columns
                or _DEFAULT_COLUMNS
            )
        except OSError:
            return _DEFAULT_COLUMNS


def _written_now(descriptor: int, data: bytes) -> int:
    """Write to a non-blocking descriptor, and return the number of written bytes."""
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        return 0


def _writable(descriptor: int, timeout_ms: int | None) -> Any:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll.poll(timeout_ms)
