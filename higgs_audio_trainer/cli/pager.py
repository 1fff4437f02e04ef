"""The pager: long output on a terminal is read page by page, as git shows it."""

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
_LESS = "FRX"  # quit if it fits one screen, keep colours, leave the text on the screen


class Output:
    """Where a command writes to: standard output, or a pager in front of it.

    Args:
        stream: takes the text; its `buffer` takes bytes.
        pager: the process that reads it; None: there is none.
    """

    def __init__(self, stream: TextIO, pager: subprocess.Popen[str] | None = None) -> None:
        self.stream = stream
        self._pager = pager

    def write(self, text: str) -> None:
        """Write a text."""
        self.stream.write(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes, as they are."""
        self.stream.buffer.write(data)

    def flush(self) -> None:
        """Have the reader see what was written."""
        self.stream.flush()

    def check(self) -> None:
        """Look whether anybody reads, where nothing was written for a while.

        Raises:
            BrokenPipeError: the pager was left.
        """
        if self._pager is not None and self._pager.poll() is not None:
            raise BrokenPipeError


@contextmanager
def paged(stdout: TextIO, environment: Mapping[str, str], *, wanted: bool) -> Iterator[Output]:
    """Put the pager between a command and its terminal, until the person who reads it leaves.

    Args:
        stdout: where the output goes in the end.
        environment: `PAGER` names the pager and its arguments; it is `less` where that is not set.
        wanted: whether there may be one; it cannot be needed where stdout is no terminal.
    """
    pager = _started(environment, encoding_of(stdout)) if wanted else None
    if pager is None:
        yield Output(stdout)
        return
    text = cast("TextIO", pager.stdin)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the pager's: what it shows, it goes on showing
    try:
        with suppress(BrokenPipeError):  # it was left early: no error
            try:
                yield Output(text, pager)
            finally:
                with suppress(BrokenPipeError):
                    text.close()
                pager.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _started(environment: Mapping[str, str], encoding: str) -> subprocess.Popen[str] | None:
    """Start the pager that the environment asks for; None if it asks for none, or has none."""
    try:
        command = shlex.split(environment.get("PAGER", _DEFAULT))
    except ValueError:  # a quotation without its end
        return None
    if " ".join(command) in _NO_PAGER or environment.get("TERM", "dumb") == "dumb":
        return None
    settings = {"LESS": _LESS} | dict(environment)
    try:
        return subprocess.Popen(  # noqa: S603 - the person's own pager
            command, stdin=subprocess.PIPE, env=settings, encoding=encoding, errors="backslashreplace"
        )
    except OSError:
        return None
