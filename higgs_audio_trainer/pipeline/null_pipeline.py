"""The pipeline of a rank without sinks."""

from __future__ import annotations

from higgs_audio_trainer.events import Event, Level
from higgs_audio_trainer.pipeline.failure_message import Say, print_above_progress_bar
from higgs_audio_trainer.pipeline.failures import FailureCounts


class NullPipeline:
    """An `Emit` that discards events and counts failures.

    Args:
        say: Prints one line for the user.

    Example:
        >>> emit = NullPipeline(say=lambda line: print(line.partition("; ")[0]))
        >>> emit.fail("extraction", ValueError("x"))
        higgs-audio-trainer: logging to extraction failed: ValueError('x')
        >>> emit.written, emit.lost
        (0, 1)
    """

    written = 0
    replaced = 0
    seconds = 0.0

    def __init__(self, *, say: Say = print_above_progress_bar) -> None:
        self._failures = FailureCounts((), say=say)

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Discard the event."""

    def recover(self) -> None:
        """Do nothing."""

    @property
    def failures(self) -> dict[str, int]:
        """Number of failures of each source."""
        return dict(self._failures.counts)

    @property
    def lost(self) -> int:
        """Number of failures of all sources."""
        return self._failures.num_lost

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging, and announce the first failure of each source."""
        self._failures.add(source, error)
        self._failures.print_announcements()
