"""Counts of `run_end` events, summed over the attempts and ranks of a run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from higgs_audio_trainer.events import RunEnd


@dataclass(slots=True)
class AttemptTotals:
    """Sums over the attempts of a run. An attempt of a killed process has no `run_end` and is missing in the sums.

    Attributes:
        begun: Attempts with an event.
        ended: Attempts with a `run_end`.
        events_written: Events that every sink took, over all ranks; None without a number in the log.
        events_lost: Failed deliveries, over all ranks; None without a number in the log.
        logging_ms: Time of logging of the first rank, in milliseconds; None without a number in the log.
        diagnoses: Logged steps and evaluations with each warning and error, of the first rank, by code.
    """

    begun: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    events_written: int | None = None
    events_lost: int | None = None
    logging_ms: float | None = None
    diagnoses: Counter[str] = field(default_factory=Counter)
    _rank: int | None = None

    def add(self, event: Any) -> None:
        """Add an event of any attempt and rank."""
        self.begun.add(event.attempt or 0)
        if not isinstance(event, RunEnd):
            return
        self.ended.add(event.attempt or 0)  # type: ignore[attr-defined]
        if event.events_written is not None and event.events_lost is not None:  # goldens have no such numbers
            self.events_written = (self.events_written or 0) + event.events_written
            self.events_lost = (self.events_lost or 0) + event.events_lost
        rank = event.rank  # type: ignore[attr-defined]
        if self._rank is None or rank < self._rank:
            self._rank, self.logging_ms, self.diagnoses = rank, None, Counter()
        if rank == self._rank:
            if event.logging_ms_total is not None and math.isfinite(event.logging_ms_total):
                self.logging_ms = (self.logging_ms or 0.0) + event.logging_ms_total
            self.diagnoses.update(event.diagnoses)

    @property
    def scope(self) -> str:
        """Return the summed attempts as text; an empty text for a run without a second attempt.

        Example:
            >>> AttemptTotals({0, 1}, {0, 1}).scope, AttemptTotals({0, 1}, {1}).scope, AttemptTotals({0}, {0}).scope
            (' in 2 attempts', ' in 1 of 2 attempts, without those that were killed or still run', '')
        """
        begun, ended = len(self.begun), len(self.ended)
        if begun < 2:  # noqa: PLR2004 - one attempt needs no scope
            return ""
        if begun == ended:
            return f" in {begun} attempts"
        return f" in {ended} of {begun} attempts, without those that were killed or still run"
