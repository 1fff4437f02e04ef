"""Phases of a command: what a person waits for, such as the loading of weights.

The parts that work announce phases, wherever they are called from. The edge, a command or `run_training`, decides once
who shows the phases. In a program that only uses the library, no display shows the phases. A list of this process takes
the place of an argument in every signature between the edge and the work, like the handlers of `logging`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

STARTING = "loading torch and transformers"
EVALUATING, SPEAKING = "evaluating", "speaking the probes"
SAVING, FINISHING = "saving a checkpoint", "saving the result"
Clock = Callable[[], float]


class Phase:
    """A phase in progress.

    Args:
        name: What is done, such as "loading the weights".
        is_slow: True for a phase that surely lasts over a second, and is shown at once on a terminal.
        clock: Monotonic clock; seconds.

    Attributes:
        name: What is done.
        detail: How far the phase is, such as "3 of 8 clips". Whoever works may change the detail at any time.
        is_slow: Whether the phase is shown at once on a terminal.
        began: Beginning, on the clock.
    """

    def __init__(self, name: str, *, is_slow: bool = False, clock: Clock = time.monotonic) -> None:
        self.name, self.detail, self.is_slow = name, "", is_slow
        self.began = clock()


class Display(Protocol):
    """Shows phases. Called in the process that announces the phases."""

    def begin(self, phase: Phase) -> None:
        """Take the beginning of a phase, which may be inside of another phase."""

    def end(self, phase: Phase) -> None:
        """Take the end of a phase."""

    def aside(self) -> AbstractContextManager[None]:
        """Return a context without a status line, so that other code can print."""


_displays: list[Callable[[], Display]] = []  # the last shows
_open: list[Phase] = []  # the last is the innermost


@contextmanager
def phase(name: str, *, is_slow: bool = False) -> Iterator[Phase]:
    """Announce a phase for the time of a block. A KeyboardInterrupt gets the name as a note.

    Args:
        name: What is done.
        is_slow: True for a phase that surely lasts over a second.

    Example:
        >>> with phase("counting") as counting:
        ...     counting.detail = "2 of 3"
        ...     current()
        'counting'
    """
    made = Phase(name, is_slow=is_slow)
    display = _displays[-1]() if _displays else None
    _open.append(made)
    try:
        if display is not None:
            display.begin(made)
        yield made
    except KeyboardInterrupt as interrupt:
        if not hasattr(interrupt, "__notes__"):  # of the innermost phase
            interrupt.add_note(name)
        raise
    finally:
        _open.remove(made)
        if display is not None:
            display.end(made)


@contextmanager
def shown_by(display: Callable[[], Display]) -> Iterator[None]:
    """Let a display show the phases of a block.

    Args:
        display: Returns the display. Called at the beginning of each phase.
    """
    _displays.append(display)
    try:
        yield
    finally:
        _displays.remove(display)


@contextmanager
def aside() -> Iterator[None]:
    """Make room for text that a block prints during a phase."""
    with _displays[-1]().aside() if _displays and _open else nullcontext():
        yield


def tell(detail: str) -> None:
    """Change the detail of the innermost phase in progress, if there is one."""
    if _open:
        _open[-1].detail = detail


def current() -> str | None:
    """Return the name of the innermost phase in progress, or None."""
    return _open[-1].name if _open else None
