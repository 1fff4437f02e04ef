"""The interface of a pipeline for trainers and recorders."""

from __future__ import annotations

from typing import Protocol

from higgs_audio_trainer.events import Event, Level


class Emit(Protocol):
    """Interface of a pipeline for a trainer: takes events, and counts the written and lost events."""

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Deliver one event."""

    @property
    def written(self) -> int:
        """Number of events taken by every sink."""

    @property
    def lost(self) -> int:
        """Number of failed deliveries, summed over the sinks, plus the events without a delivery."""

    @property
    def replaced(self) -> int:
        """Number of values replaced for lack of a JSON form."""

    @property
    def seconds(self) -> float:
        """Time spent on emitting; seconds."""

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging, and announce the first failure of each source."""

    def recover(self) -> None:
        """Let working sinks report their earlier outages. The caller emits the last event afterwards."""
