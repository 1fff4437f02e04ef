"""A terminal of 80 columns for processes of the tests, with all lines that it ever showed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte

COLUMNS, ROWS = 80, 24


class Emulator:
    """Pseudo terminal with an emulator behind it.

    Attributes:
        path: Device of the terminal, for the streams of a process.
        file: Descriptor of the terminal, for settings such as `tcflow`.
    """

    def __init__(self) -> None:
        self._master, self.file = pty.openpty()
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.path = Path(os.ttyname(self.file))
        self._screen = pyte.HistoryScreen(COLUMNS, ROWS, history=100_000)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self._has_ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # a terminal ends with EIO
            while data := os.read(self._master, 65536):
                with self._changed:
                    self._stream.feed(data)
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _lines(self) -> list[str]:
        above = ["".join(line[column].data for column in range(COLUMNS)) for line in self._screen.history.top]
        return [line.rstrip() for line in (*above, *self._screen.display)]

    def wait_for(self, is_shown: Callable[[list[str]], bool], seconds: float = 60) -> list[str]:
        """Return the lines as soon as they are as wanted."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_shown(self._lines()) or self._has_ended, seconds), self._lines()
            assert is_shown(self._lines()), self._lines()
            return self._lines()

    def end(self) -> list[str]:
        """Close the terminal, whose processes have ended, and return all lines."""
        os.close(self.file)
        self._thread.join(60)
        os.close(self._master)
        return self._lines()


@contextmanager
def emulator() -> Iterator[Emulator]:
    """Return a terminal, closed at the end of the block if the block did not close it."""
    made = Emulator()
    try:
        yield made
    finally:
        if not made._has_ended:
            made.end()
