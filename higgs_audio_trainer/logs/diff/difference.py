"""Comparison of two records, field by field, with the residuals of floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING as ABSENT
from dataclasses import fields
from functools import cache, lru_cache
from typing import Any, NamedTuple

from higgs_audio_trainer.events import EVENTS, IGNORE_INDEX, Window
from higgs_audio_trainer.logs.diff.comparison import MISSING
from higgs_audio_trainer.logs.diff.tolerance import (
    Tolerances,
    field_with_tolerance,
    float_fields,
    residual,
    same_bits,
    window_float_fields,
)
from higgs_audio_trainer.logs.diff.windows import SLOT_LISTS, WINDOWS, is_of_codes
from higgs_audio_trainer.logs.typed import Record

_Path = tuple[str | int, ...]
Measure = Callable[[str, str, float], None]  # event, field, residual

_EXACT = frozenset({str, int, bool, type(None)})  # types whose equal values are identical
_SHAPES = ("logits_shape", "labels_shape")
_OF_VERSIONS = ("versions", "v")


class Difference(NamedTuple):
    """A differing value.

    Attributes:
        kind: Kind of the difference, a key of `comparison.KINDS`.
        path: Names and indices of the value.
        expected: Value in log A, or `MISSING`.
        got: Value in log B, or `MISSING`.
        residual: Difference of floats in tolerances; None for other types.

    Example:
        >>> Difference("tokens", ("first", "labels", 3), 7, 8).place
        'first.labels[3]'
    """

    kind: str
    path: _Path
    expected: Any
    got: Any
    residual: float | None = None

    @property
    def place(self) -> str:
        """Name of the field with indices."""
        parts = (f".{part}" if isinstance(part, str) else f"[{part}]" for part in self.path)
        return "".join(parts).removeprefix(".")


@lru_cache(maxsize=4096)
def field_of(path: _Path) -> str:
    """Return the name of a path's field, without indices.

    Example:
        >>> field_of(("first", "labels", 3))
        'first.labels'
    """
    return ".".join(part for part in path if isinstance(part, str))


class Comparer:
    """Compares records.

    Args:
        tolerances: Tolerances of floats.
        measure: Receives event, field and residual of each pair of floats, equal floats included.
    """

    def __init__(self, tolerances: Tolerances, measure: Measure) -> None:
        self._tolerances = tolerances
        self._measure = measure

    def differences(self, event: str, expected: Record, got: Record) -> Iterator[Difference]:
        """Yield the differences between two events of the same name, in the order of A's fields."""
        return self._members(event, (), expected, got)

    def _members(self, event: str, path: _Path, expected: Record, got: Record) -> Iterator[Difference]:
        """Compare the members of an event or of an object in an event."""
        floats, defaults = _known_of(event, path)
        for name in expected | got:
            a, b = expected.get(name, MISSING), got.get(name, MISSING)
            if (a is MISSING or b is MISSING) and name in defaults and defaults[name] == (b if a is MISSING else a):
                continue  # a field missing in an older log has the default value
            if name in floats:
                yield from self._floats(event, (*path, name), a, b)
            elif type(a) is not type(b) or type(a) not in _EXACT or a != b:  # else equal, the frequent case
                yield from self._values(event, (*path, name), a, b)

    def _floats(self, event: str, path: _Path, a: Any, b: Any) -> Iterator[Difference]:
        """Compare a field of floats. JSON may hold a float without a fraction as an integer."""
        if type(a) is float is type(b):  # the frequent case
            yield from self._float(event, path, a, b)
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                yield from self._floats(event, (*path, index), x, y)
        elif _is_number(a) and _is_number(b):
            yield from self._float(event, path, a, b)
        else:
            yield from self._values(event, path, a, b)

    def _values(self, event: str, path: _Path, a: Any, b: Any) -> Iterator[Difference]:
        if isinstance(a, dict) and isinstance(b, dict):
            yield from self._members(event, path, a, b)
        elif isinstance(a, list) and isinstance(b, list):
            yield from self._lists(event, path, a, b)
        elif _is_number(a) and _is_number(b) and (isinstance(a, float) or isinstance(b, float)):
            if event == "run_start":  # settings have no tolerance
                if not same_bits(a, b):
                    yield Difference(_kind(event, path, a, b), path, a, b)
            else:
                yield from self._float(event, path, a, b)
        elif type(a) is not type(b) or a != b:
            yield Difference(_kind(event, path, a, b), path, a, b)

    def _lists(self, event: str, path: _Path, a: list[Any], b: list[Any]) -> Iterator[Difference]:
        if len(a) != len(b):
            yield Difference(_kind(event, path, a, b), path, a, b)
            return
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            if type(x) is int is type(y):  # the frequent case
                if x != y:
                    yield Difference(_kind(event, path, x, y), (*path, index), x, y)
            else:
                yield from self._values(event, (*path, index), x, y)

    def _float(self, event: str, path: _Path, a: float, b: float) -> Iterator[Difference]:
        name = field_with_tolerance(path)
        if self._tolerances.exact:
            if not same_bits(a, b):
                yield Difference("floats", path, a, b, residual(a, b, self._tolerances.of(event, name)))
            return
        off = residual(a, b, self._tolerances.of(event, name))
        self._measure(event, field_of(path), off)
        if not abs(off) <= 1:
            yield Difference("floats", path, a, b, off)


def _known_of(event: str, path: _Path) -> tuple[frozenset[str], Mapping[str, Any]]:
    """Return the float members and the defaults of an event, or of a window of an event."""
    if not path:
        return float_fields(event), _defaults(event)
    if len(path) == 1 and path[0] in WINDOWS:
        return window_float_fields(), _defaults(None)
    return frozenset(), {}


@cache
def _defaults(event: str | None) -> Mapping[str, Any]:
    """Return the default values of an event's fields; of a window's fields for None."""
    cls = Window if event is None else EVENTS.get(event)
    if cls is None:
        return {}
    made = {item.name: item.default for item in fields(cls) if item.default is not ABSENT}
    return made | {item.name: item.default_factory() for item in fields(cls) if item.default_factory is not ABSENT}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(event: str, path: _Path, a: Any, b: Any) -> str:
    """Return the kind of a difference between values other than two floats."""
    head, field = path[0], path[1] if len(path) > 1 else None
    if event == "run_start":
        return "versions" if head in _OF_VERSIONS else "configuration"
    if head in _SHAPES or (isinstance(a, list) and isinstance(b, list)):  # lists compared as a whole differ in length
        return "shapes"
    if head in WINDOWS and field in SLOT_LISTS and not {list, type(MISSING)} & {type(a), type(b)}:
        masked = None if field != "labels" else IGNORE_INDEX
        return "masks" if (a == masked) != (b == masked) else "tokens"
    if head in float_fields(event):
        return "floats"
    return "tokens" if is_of_codes(path) else "other"
