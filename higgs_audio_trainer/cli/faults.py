"""Faults of a log, said on stderr while the rest of it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from higgs_audio_trainer.errors import InputProblem
from sinks.terminal.escape import printable
from sinks.terminal.screen import say_on_stderr

_MOST = 20


class Faults:
    """Says the first faults as they are found, and counts all.

    Attributes:
        count: how many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._held: list[str] | None = None

    def __call__(self, fault: InputProblem) -> None:
        """Take a fault."""
        self.count += 1
        if self.count <= _MOST:
            self._say(printable(str(fault)))

    @contextmanager
    def held(self, *, wanted: bool) -> Iterator[None]:
        """Say those that are found meanwhile afterwards: a pager has the screen."""
        self._held = [] if wanted else None
        try:
            yield
        finally:
            held, self._held = self._held or [], None
            for text in held:
                self._say(text)

    def _say(self, text: str) -> None:
        if self._held is None:
            say_on_stderr(text)
        else:
            self._held.append(text)

    def close(self) -> None:
        """Say how many were passed over in all, if there were any."""
        if self.count:
            faults = "1 fault" if self.count == 1 else f"{self.count:,} faults"
            more = f", of which {_MOST} are shown" if self.count > _MOST else ""
            say_on_stderr(f"{faults}{more}. What else could be read was; `validate` says more.")
