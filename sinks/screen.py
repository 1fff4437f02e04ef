"""The terminal that a run shares: records, notices and the progress line, in one order."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO


def say_on_stderr(text: str) -> None:
    """Say one line on stderr; where it is closed or gone, there is nowhere left to say it."""
    with suppress(Exception):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the way to a person where no screen is shared


class Screen:
    """Writes records to one stream, notices and a progress line to another.

    Args:
        out: where records go; None: nobody reads.
        err: where notices and the progress line go; None: nobody reads.
    """

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        self._out, self._err = out, err
        self.dropped = 0

    def show(self, text: str) -> None:
        """Show a record's lines."""
        if self._out is not None:
            print(text, file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Say one line to the person who runs it."""
        if self._err is not None:
            print(text, file=self._err, flush=True)

    def close(self) -> None:
        """Wait a moment for what is still to be shown."""
