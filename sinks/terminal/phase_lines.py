"""Lines about the phases of a command: a status line, or lines at the start, each minute, and at the end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from sinks.terminal.screen import Screen
from sinks.terminal.words import duration

PATIENCE_S = 1.0  # a shorter phase is not worth a line
_PERIOD_S = 60.0  # between two lines about a phase where a status line is impossible


class ShownPhase(Protocol):
    """The attributes of `higgs_audio_trainer.phases.Phase`, which this package does not import."""

    name: str
    detail: str
    is_slow: bool
    began: float


class PhaseLines:
    """Shows the innermost phase that has lasted over a second.

    Args:
        screen: Terminal of the notices.
        waits: Whether the end of a shown phase waits, for a moment, until the status line is gone. For commands that
            print to the terminal by themselves.
        clock: Monotonic clock; seconds.

    Example:
        >>> from types import SimpleNamespace
        >>> lines = PhaseLines(Screen(None, None), clock=lambda: 75.0)
        >>> lines.begin(SimpleNamespace(name="loading the weights", detail="3 of 4 files", is_slow=True, began=75.0))
        >>> lines.status()
        'loading the weights: 3 of 4 files'
    """

    def __init__(self, screen: Screen, *, waits: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._waits, self._clock = screen, waits, clock
        self._open: list[ShownPhase] = []
        self._announced: dict[int, float] = {}  # time of the last line, by id of the phase
        self._lock = threading.Lock()  # a child of a fork never takes the lock
        self._pid = os.getpid()
        self._is_aside = False

    def begin(self, phase: ShownPhase) -> None:
        """Take the beginning of a phase."""
        if os.getpid() == self._pid:
            with self._lock:
                self._open.append(phase)
                self._show()
            self._screen.watch(self.tick)

    def end(self, phase: ShownPhase) -> None:
        """Take the end of a phase, and print the end of an announced phase."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            was_shown = self._screen.has_status and bool(self.status())
            self._open.remove(phase)
            self._show()
            if self._announced.pop(id(phase), None) is not None:
                self._screen.note(f"{phase.name}: done in {_duration(self._clock() - phase.began)}")
        if not self._open:
            self._screen.watch(None)
        if self._waits and was_shown:
            self._screen.settle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Remove the status line for the time of a block that prints."""
        self._is_aside = True
        self.tick()
        if self._waits:
            self._screen.settle()
        try:
            yield
        finally:
            self._is_aside = False
            self.tick()

    def tick(self) -> None:
        """Show how far the phase is, and announce a phase that has become long. Called by the thread of the screen."""
        with self._lock:
            self._show()

    def status(self) -> str:
        """Return the line about the innermost long phase, or an empty line."""
        for phase in reversed(self._open):
            seconds = self._clock() - phase.began
            if seconds >= PATIENCE_S or phase.is_slow:
                detail = f": {phase.detail}" if phase.detail else ""
                return f"{phase.name}{detail}" + (f"  {_duration(seconds)}" if seconds >= PATIENCE_S else "")
        return ""

    def _show(self) -> None:
        if self._screen.has_status:
            self._screen.phase("" if self._is_aside else self.status())
            return
        now = self._clock()
        for phase in self._open:
            if id(phase) not in self._announced and now - phase.began >= PATIENCE_S:
                self._announced[id(phase)] = now
                self._screen.note(f"{phase.name} ...")
            elif phase.detail and now - self._announced.get(id(phase), now) >= _PERIOD_S:
                self._announced[id(phase)] = now
                self._screen.note(f"{phase.name}: {phase.detail}  {_duration(now - phase.began)}")


def _duration(seconds: float) -> str:
    """Return a duration, with its unit below a minute.

    Example:
        >>> _duration(4.2), _duration(3725)
        ('4 s', '1:02:05')
    """
    whole = int(seconds)
    return f"{whole} s" if whole < 60 else duration(whole)  # noqa: PLR2004 - a minute
