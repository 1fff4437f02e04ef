"""Failures of logging by source. Every failure is counted, and the first failure of each source is announced."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from higgs_audio_trainer.pipeline.failure_message import Say, failure_message


class FailureCounts:
    """Counts and announcements of failures.

    Args:
        sources: Sources known from the beginning, for `counts[source] += 1` without a call.
        harmless: Sources of failures without a lost event.
        say: Prints one line for the user.

    Attributes:
        counts: Number of failures of each source.
        harmless: Sources of failures without a lost event.
        pending: Announcements to print.

    Example:
        >>> failures = FailureCounts(["emit"], harmless=["clock"], say=print)
        >>> for _ in range(2):
        ...     failures.add("clock", ValueError("x"))
        >>> failures.print_announcements()
        higgs-audio-trainer: clock failed: ValueError('x'); training continues and no event is lost.
        >>> failures.counts["clock"], failures.num_lost
        (2, 0)
    """

    def __init__(self, sources: Iterable[str], *, harmless: Iterable[str] = (), say: Say) -> None:
        self.harmless = frozenset(harmless)
        self.counts = dict.fromkeys((*sources, *self.harmless), 0)
        self._say = say
        self._announced: set[str] = set()
        self.pending: list[str] = []

    @property
    def num_lost(self) -> int:
        """Number of failures with a possibly lost event."""
        return sum(count for source, count in self.counts.items() if source not in self.harmless)

    def add(self, source: str, error: BaseException) -> None:
        """Count a failure, and prepare an announcement for the first failure of a source."""
        if source not in self.counts:
            self.counts[source] = 0
        self.counts[source] += 1  # on a line without a call, so that an interruption cannot lose a count
        self.announce(source, error)

    def announce(self, source: str, error: BaseException) -> None:
        """Prepare an announcement, unless the source has had one."""
        if source not in self._announced:
            self._announced.add(source)
            self.pending.append(failure_message(source, error, costs_event=source not in self.harmless))

    def print_announcements(self) -> None:
        """Print the pending announcements. Announcements added meanwhile wait for the next call."""
        for _ in range(len(self.pending)):
            with suppress(Exception):  # nobody can read the message; the failure is counted
                self._say(self.pending.pop(0))
