"""Pager of long output on a terminal, like the pager of git."""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from sinks.terminal.stream import encoding_of

_DEFAULT = "less"
_NO_PAGER = ("", "cat")
_LESS = "FRX"  # quit if the text fits the screen, keep colours, leave the text on the screen


class Output:
    """Destination of a command's output: standard output, or the input of a pager.

    Args:
        stream: Stream of text. Its `buffer` takes bytes.
        pager: Process that reads the stream, or None without a pager.

    Example:
        >>> import sys
        >>> Output(sys.stdout).write("a line")
        a line
    """

    def __init__(self, stream: TextIO, pager: subprocess.Popen[str] | None = None) -> None:
        self.stream = stream
        self._pager = pager

    def write(self, text: str) -> None:
        """Write text."""
        self.stream.write(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes without any change."""
        self.stream.buffer.write(data)

    def flush(self) -> None:
        """Pass buffered text to the reader."""
        self.stream.flush()

    def check(self) -> None:
        """Check for a reader. Called while nothing is written, because only a write notices a closed pipe.

        Raises:
            BrokenPipeError: The pager has ended.
        """
        if self._pager is not None and self._pager.poll() is not None:
            raise BrokenPipeError


@contextmanager
def paged(stdout: TextIO, environment: Mapping[str, str], *, wanted: bool) -> Iterator[Output]:
    """Run a pager between the block and the terminal until the user quits the pager.

    Args:
        stdout: Standard output, which the pager writes to.
        environment: Environment variables. `PAGER` holds the pager and its arguments, by default `less`.
        wanted: Whether to use a pager. False where stdout is not a terminal.

    Yields:
        The output to write to.
    """
    pager = _start_pager(environment, encoding_of(stdout)) if wanted else None
    if pager is None:
        yield Output(stdout)
        return
    text = cast("TextIO", pager.stdin)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the pager, which goes on
    try:
        with suppress(BrokenPipeError):  # the user quit the pager early, which is no error
            try:
                yield Output(text, pager)
            finally:
                with suppress(BrokenPipeError):
                    text.close()
                pager.wait()
    finally:
        signal.signal(signal.SIGINT, handler)


def _start_pager(environment: Mapping[str, str], encoding: str) -> subprocess.Popen[str] | None:
    """Start the pager of the environment. Return None if no pager is wanted or the pager cannot start.

    Example:
        >>> _start_pager({"PAGER": "cat", "TERM": "xterm"}, "utf-8") is None
        True
    """
    try:
        command = shlex.split(environment.get("PAGER", _DEFAULT))
    except ValueError:  # a quotation mark without its partner
        return None
    if " ".join(command) in _NO_PAGER or environment.get("TERM", "dumb") == "dumb":
        return None
    settings = {"LESS": _LESS} | dict(environment)
    try:
        return subprocess.Popen(  # noqa: S603 - the user's own pager
            command, stdin=subprocess.PIPE, env=settings, encoding=encoding, errors="backslashreplace"
        )
    except OSError:
        return None
