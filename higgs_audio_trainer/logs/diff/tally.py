"""What was found of every field, summed up as the events go by: in constant memory."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from higgs_audio_trainer.logs.diff.comparison import KINDS, Field
from higgs_audio_trainer.logs.diff.difference import Difference, field_of
from higgs_audio_trainer.logs.diff.tolerance import float_fields
from higgs_audio_trainer.logs.typed import Record

_MOST_FIELDS = 2_000  # of which one log may have any number; all others count as one
_OTHERS = ("...", "other fields")
_WORST = 100
# A drift, where every value is within its tolerance: so many, so far off on average, and so many standard errors away
# from no shift at all. Where values are beyond, their mean tells little, and they are differences anyway.
_FEWEST, _LEAST_MEAN, _STANDARD_ERRORS = 8, 0.05, 4.0


class _Sums:
    """One field of one event."""

    __slots__ = ("differing", "expected", "got", "kind", "residual", "squares", "step", "total", "values")

    def __init__(self) -> None:
        self.values = self.differing = 0
        self.total = self.squares = 0.0
        self.kind = "floats"
        self.step: Any = None
        self.expected: Any = None
        self.got: Any = None
        self.residual: float | None = None

    def differs(self, found: Difference, step: Any) -> None:
        worst = found.residual is not None and (self.residual is None or abs(found.residual) > abs(self.residual))
        if not self.differing:
            self.kind = found.kind
        if not self.differing or worst:
            self.step, self.expected, self.got = step, found.expected, found.got
            self.residual = found.residual
        self.differing += 1

    def report(self, event: str, name: str) -> Field:
        mean = self.total / self.values if self.values else None
        rms = math.sqrt(self.squares / self.values) if self.values else None
        return Field(
            event=event,
            name=name,
            kind=self.kind,
            differing=self.differing,
            values=self.values or None,
            step=self.step,
            expected=self.expected,
            got=self.got,
            residual=self.residual,
            mean_residual=mean,
            rms_residual=rms,
            drifts=not self.differing and _is_drift(self.values, mean, rms),
        )


def _is_drift(values: int, mean: float | None, rms: float | None) -> bool:
    return (
        mean is not None
        and rms is not None
        and values >= _FEWEST
        and math.isfinite(rms)
        and abs(mean) >= _LEAST_MEAN
        and abs(mean) * math.sqrt(values) >= _STANDARD_ERRORS * rms
    )


class Tally:
    """Counts differences and sums up residuals.

    Attributes:
        kinds: how many differences there are of each kind, drifts aside.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self._fields: dict[tuple[str, str], _Sums] = {}

    def agree(self, event: str, record: Record) -> None:
        """Take note of two events that are equal: each of their floats has the residual 0."""
        for name in float_fields(event):
            value = record.get(name)
            if value is not None:
                number = len(value) - value.count(None) if isinstance(value, list) else 1
                self._sums(event, name).values += number

    def measure(self, event: str, field: str, residual: float) -> None:
        """Take note of two floats that were compared."""
        sums = self._sums(event, field)
        sums.values += 1
        square = residual * residual
        if math.isfinite(square):  # else it is far beyond, and would hide what all others say
            sums.total += residual
            sums.squares += square

    def differs(self, event: str, found: Difference, step: Any) -> None:
        """Take note of a difference."""
        self.kinds[found.kind] += 1
        self._sums(event, field_of(found.path)).differs(found, step)

    def worst(self) -> tuple[Field, ...]:
        """Return the fields that differ, those with the most differing values first."""
        fields = [sums.report(*key) for key, sums in self._fields.items() if sums.differing]
        return tuple(sorted(fields, key=_badness)[:_WORST])

    def drifts(self) -> tuple[Field, ...]:
        """Return the fields that are shifted to one side, the one that is shifted most first."""
        fields = (sums.report(*key) for key, sums in self._fields.items())
        return tuple(sorted((field for field in fields if field.drifts), key=_shift))

    def counts(self, drifts: int) -> dict[str, int]:
        """Return how many differences there are of each kind that there is."""
        found = self.kinds + Counter(drift=drifts)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def _sums(self, event: str, field: str) -> _Sums:
        sums = self._fields.get((event, field))
        if sums is None:
            key = (event, field) if len(self._fields) < _MOST_FIELDS else _OTHERS
            sums = self._fields.setdefault(key, _Sums())
        return sums


def _badness(field: Field) -> tuple[Any, ...]:
    return -field.differing, -abs(field.residual or 0.0), field.path


def _shift(field: Field) -> tuple[Any, ...]:
    return -abs(field.mean_residual or 0.0), field.path
