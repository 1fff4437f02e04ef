"""Counts and times of a run over its attempts and ranks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from higgs_audio_trainer.events import RunEnd

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400  # seconds


@dataclass(slots=True)
class AttemptTotals:
    """Sums over the attempts of a run. An attempt of a killed process has no `run_end` and is missing in the counts.

    Attributes:
        begun: Attempts with an event.
        ended: Attempts with a `run_end`.
        times: Time of the first and the last event of each attempt, in ISO 8601.
        events_lost: Failed deliveries, over all ranks; None without a number in the log.
        logging_ms: Time of logging of the first rank, in milliseconds; None without a number in the log.
        diagnoses: Logged steps and evaluations with each warning and error, of the first rank, by code.
    """

    begun: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    times: dict[int, tuple[str, str]] = field(default_factory=dict)
    events_lost: int | None = None
    logging_ms: float | None = None
    diagnoses: Counter[str] = field(default_factory=Counter)
    _rank: int | None = None

    def add(self, event: Any) -> None:
        """Add an event of any attempt and rank."""
        attempt = event.attempt or 0
        self.begun.add(attempt)
        if event.ts is not None:
            first, last = self.times.get(attempt, (event.ts, event.ts))
            self.times[attempt] = min(first, event.ts), max(last, event.ts)
        if not isinstance(event, RunEnd):
            return
        self.ended.add(attempt)
        if event.events_lost is not None:  # goldens have no such numbers
            self.events_lost = (self.events_lost or 0) + event.events_lost
        rank = event.rank  # type: ignore[attr-defined]
        if self._rank is None or rank < self._rank:
            self._rank, self.logging_ms, self.diagnoses = rank, None, Counter()
        if rank == self._rank:
            if event.logging_ms_total is not None and math.isfinite(event.logging_ms_total):
                self.logging_ms = (self.logging_ms or 0.0) + event.logging_ms_total
            self.diagnoses.update(event.diagnoses)

    @property
    def first_ts(self) -> str | None:
        """Return the time of the first event of all attempts. None without times."""
        return min((first for first, _ in self.times.values()), default=None)

    @property
    def last_ts(self) -> str | None:
        """Return the time of the last event of all attempts. None without times."""
        return max((last for _, last in self.times.values()), default=None)

    @property
    def duration_s(self) -> float | None:
        """Return the seconds that the attempts ran, without the pauses between attempts. None if unknown.

        Example:
            >>> day = "2026-01-02T0"
            >>> times = {0: (day + "3:00:00Z", day + "3:00:40Z"), 1: (day + "9:00:00Z", day + "9:01:00Z")}
            >>> AttemptTotals(times=times).duration_s
            100.0
        """
        try:
            times = [tuple(map(datetime.fromisoformat, pair)) for pair in self.times.values()]
            spans = [last - first for first, last in times]
        except (ValueError, TypeError):  # not a time, or times with and without a zone
            return None
        return sum(span.total_seconds() for span in spans) if spans else None

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


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units.

    Example:
        >>> duration_text(36.4), duration_text(754), duration_text(7_260), duration_text(97_200)
        ('36 s', '12 min 34 s', '2 h 1 min', '1 d 3 h')
    """
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s" if whole else f"{seconds:.1f} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def time_text(ts: str) -> str:
    """Return a time of an event to the second, for people.

    Example:
        >>> time_text("2026-01-02T03:04:05.678901Z")
        '2026-01-02 03:04:05 UTC'
    """
    return f"{ts[:19].replace('T', ' ')} UTC" if "T" in ts else ts
