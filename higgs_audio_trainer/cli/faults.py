"""Faults of a log, said on stderr while the rest of it is read."""

from __future__ import annotations

from higgs_audio_trainer.errors import Fault
from sinks.escape import printable
from sinks.screen import say_on_stderr

_MOST = 20


class Faults:
    """Says the first faults as they are found, and counts all.

    Attributes:
        count: how many there were.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, fault: Fault) -> None:
        """Take a fault."""
        self.count += 1
        if self.count <= _MOST:
            say_on_stderr(printable(str(fault)))

    def close(self) -> None:
        """Say how many were passed over in all, if there were any."""
        if self.count:
            lines = "1 line holds" if self.count == 1 else f"{self.count:,} lines hold"
            more = f", of which {_MOST} are shown" if self.count > _MOST else ""
            say_on_stderr(f"{lines} no event{more}. The other lines were read; `validate` says more.")
