"""The display of the phases of a command, on standard error. Standard output is for data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from higgs_audio_trainer import phases

if TYPE_CHECKING:
    from sinks.terminal.phase_lines import PhaseLines
    from sinks.terminal.screen import Screen


@contextmanager
def phases_shown() -> Iterator[None]:
    """Show the phases of a block, on the first rank alone. The terminal is imported at the first phase."""
    opened: list[tuple[Screen, PhaseLines]] = []

    def display() -> PhaseLines:
        if not opened:
            from sinks.terminal.phase_lines import PhaseLines
            from sinks.terminal.screen import Screen

            is_first = os.environ.get("RANK", "0") == "0"
            screen = Screen(None, sys.stderr if is_first else None)
            opened.append((screen, PhaseLines(screen, waits=True)))
        return opened[0][1]

    try:
        with phases.shown_by(display):
            yield
    finally:
        for screen, _ in opened:
            screen.close()
