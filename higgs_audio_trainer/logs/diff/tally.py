"""Sums over the differences of every field, in constant memory."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from higgs_audio_trainer.logs.diff.comparison import KINDS, Field
from higgs_audio_trainer.logs.diff.difference import Difference, field_of
from higgs_audio_trainer.logs.diff.tolerance import float_fields
from higgs_audio_trainer.logs.typed import Record

_MOST_FIELDS = 2_000  # fields with a tally of their own; further fields share a tally
_OTHERS = ("...", "other fields")
_OTHER_EVENTS = "other events"
_WORST = 100
_FLOATS = "floats"
# A drift needs every value within tolerance, at least this many events, this mean residual, and this many standard
# errors between the mean and 0. A field with values beyond tolerance is reported as a difference instead.
_FEWEST, _LEAST_MEAN, _STANDARD_ERRORS = 8, 0.05, 4.0


class _KindTally:
    """Differences of one kind in one field of an event."""

    __slots__ = ("differing", "expected", "got", "residual", "step")

    def __init__(self) -> None:
        self.differing = 0
        self.step: Any = None
        self.expected: Any = None
        self.got: Any = None
        self.residual: float | None = None

    def add(self, found: Difference, step: Any) -> None:
        worst = found.residual is not None and (self.residual is None or abs(found.residual) > abs(self.residual))
        if not self.differing or worst:
            self.step, self.expected, self.got = step, found.expected, found.got
            self.residual = found.residual
        self.differing += 1


class _FieldTally:
    """Sums over one field of an event."""

    __slots__ = (
        "event_total",
        "event_values",
        "events",
        "kinds",
        "means",
        "means_squares",
        "squares",
        "total",
        "values",
    )

    def __init__(self) -> None:
        self.kinds: dict[str, _KindTally] = {}
        self.values = 0
        self.total = self.squares = 0.0
        # The values of one event, such as the codebooks, share the event's error, so their mean counts as one sample.
        self.events = 0
        self.means = self.means_squares = 0.0  # sums of the events' means and of their squares
        self.event_values = 0  # values of the current event
        self.event_total = 0.0

    def end_event(self) -> None:
        """Add the mean residual of the current event."""
        mean = self.event_total / self.event_values
        self.event_values, self.event_total = 0, 0.0
        self.events += 1
        self.means += mean
        self.means_squares += mean * mean

    def drifts(self) -> bool:
        """Return True if the mean residual differs significantly from 0, by a t-test over the events."""
        if self.kinds or self.events < _FEWEST:
            return False
        mean = self.means / self.events
        variance = max(0.0, self.means_squares - self.events * mean * mean) / (self.events - 1)
        return abs(mean) >= _LEAST_MEAN and abs(mean) * math.sqrt(self.events) >= _STANDARD_ERRORS * math.sqrt(variance)

    def report(self, event: str, name: str, kind: str = _FLOATS) -> Field:
        """Return the result for one kind of differences. Figures of floats belong to the kind `floats`."""
        found = self.kinds.get(kind) or _KindTally()
        values = self.values if kind == _FLOATS else 0
        return Field(
            event=event,
            name=name,
            kind=kind,
            differing=found.differing,
            values=values or None,
            step=found.step,
            expected=found.expected,
            got=found.got,
            residual=found.residual,
            mean_residual=self.total / values if values else None,
            rms_residual=math.sqrt(self.squares / values) if values else None,
            drifts=self.drifts(),
        )


class Tally:
    """Counts differences and sums residuals.

    Attributes:
        kinds: Number of differences by kind, without drifts.
        lone: Missing events by kind and name.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.lone: dict[str, Counter[str]] = {}
        self._fields: dict[tuple[str, str], _FieldTally] = {}
        self._compared: list[_FieldTally] = []  # fields of the current event

    def add_equal(self, event: str, record: Record) -> None:
        """Add two equal events; each of the floats has the residual 0."""
        for name in float_fields(event):
            value = record.get(name)
            if value is not None:
                number = len(value) - value.count(None) if isinstance(value, list) else 1
                sums = self._sums(event, name)
                sums.values += number
                sums.events += number > 0

    def measure(self, event: str, field: str, residual: float) -> None:
        """Add the residual of two floats."""
        sums = self._sums(event, field)
        sums.values += 1
        square = residual * residual
        if math.isfinite(square):  # an infinite residual would hide all others
            sums.total += residual
            sums.squares += square
            if not sums.event_values:
                self._compared.append(sums)
            sums.event_values += 1
            sums.event_total += residual

    def end_event(self) -> None:
        """End the comparison of two events."""
        for sums in self._compared:
            sums.end_event()
        self._compared.clear()

    def add_difference(self, event: str, found: Difference, step: Any) -> None:
        """Add a difference."""
        self.kinds[found.kind] += 1
        kinds = self._sums(event, field_of(found.path)).kinds
        if found.kind not in kinds:
            kinds[found.kind] = _KindTally()
        kinds[found.kind].add(found, step)

    def add_missing(self, kind: str, event: str) -> None:
        """Add a missing event."""
        self.kinds[kind] += 1
        names = self.lone.setdefault(kind, Counter())
        names[event if event in names or len(names) < _MOST_FIELDS else _OTHER_EVENTS] += 1

    def worst(self) -> tuple[Field, ...]:
        """Return the differing fields, sorted by the number of differing values, largest first."""
        fields = [sums.report(*key, kind) for key, sums in self._fields.items() for kind in sums.kinds]
        return tuple(
            sorted(fields, key=lambda field: (-field.differing, -abs(field.residual or 0.0), field.path))[:_WORST]
        )

    def drifts(self) -> tuple[Field, ...]:
        """Return the drifting fields, largest drift first."""
        fields = [sums.report(*key) for key, sums in self._fields.items() if sums.drifts()]
        return tuple(sorted(fields, key=lambda field: (-abs(field.mean_residual or 0.0), field.path)))

    def counts(self, drifts: int) -> dict[str, int]:
        """Return the number of differences by kind, without zeros."""
        found = self.kinds + Counter(drift=drifts)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def _sums(self, event: str, field: str) -> _FieldTally:
        sums = self._fields.get((event, field))
        if sums is None:
            key = (event, field) if len(self._fields) < _MOST_FIELDS else _OTHERS
            sums = self._fields.setdefault(key, _FieldTally())
        return sums
