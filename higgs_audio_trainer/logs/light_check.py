"""Check of a line's values by the annotations of the event classes, without msgspec and without typed events.

The import of msgspec and the creation of the typed classes take as long as the check of 3,000 lines. A comparison of
two small logs needs neither, because it compares JSON objects. The check accepts a part of what `typed` accepts, and
`typed` decides about every other line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from types import NoneType
from typing import Any, get_args

from higgs_audio_trainer.events import (
    EVENTS,
    PARTS,
    SCHEMA_VERSION,
    VOLATILE_FIELDS,
    Envelope,
    Level,
    Modality,
    Severity,
    Split,
    Stage,
)
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.typed import MARKS, Record, typed

_MOST_LINES = 2_000  # for more lines, msgspec is faster in total
_SCALARS: dict[str, frozenset[type]] = {
    "int": frozenset({int}),
    "float": frozenset({float, int}),
    "str": frozenset({str}),
    "bool": frozenset({bool}),
    "None": frozenset({NoneType}),
}
_CHOICES = {
    "Level": get_args(Level),
    "Modality": get_args(Modality),
    "Severity": get_args(Severity),
    "Split": get_args(Split),
    "Stage": get_args(Stage),
}
_PARTS = {part.__name__: part for part in PARTS}
_NOT_FIELDS = MARKS | {"extra"}
_Check = Callable[[Any], bool]


class LightCheck:
    """Finds the invalid field of a record. Later lines of a long log, and unknown fields, are checked by `typed`.

    Example:
        >>> check = LightCheck()
        >>> record = {"event": "checkpoint", "v": 1, "rank": 0, "level": "info", "step": 10, "path": "checkpoint-10"}
        >>> check(record), check(record | {"step": "ten"})
        (None, InvalidField(field='$.step', expected='int', got='str'))
    """

    def __init__(self) -> None:
        self._left = _MOST_LINES

    def __call__(self, record: Record) -> InvalidField | None:
        """Return the first invalid field of a record; None if the record fits the event's type."""
        found = self.event_of(record)
        return found if isinstance(found, InvalidField) else None

    def event_of(self, record: Record) -> Any:
        """Return the event of a record with unknown fields, the first invalid field, or None for other records."""
        if self._left:
            self._left -= 1
            if fits(record):
                return None
        event = typed(record)
        return event if isinstance(event, InvalidField) or event.extra else None


def fits(record: Record) -> bool:
    """Return True if a record surely fits the event's type.

    False says nothing: the record may have marks, another version, unknown fields, or values that need the exact check.

    Example:
        >>> record = {"event": "checkpoint", "v": 1, "rank": 0, "level": "info", "step": 10, "path": "checkpoint-10"}
        >>> fits(record), fits(record | {"step": None})
        (True, False)
    """
    cls = EVENTS.get(record["event"])
    if cls is None or record.get("v") != SCHEMA_VERSION or not _NOT_FIELDS.isdisjoint(record):
        return False
    return record.keys() <= _names_of((Envelope, cls)) and _has_fields(record, Envelope) and _has_fields(record, cls)


def _has_fields(record: Record, cls: Any) -> bool:
    for name, is_required, check in _fields_of(cls):
        if name in record:
            if not check(record[name]):
                return False
        elif is_required:
            return False
    return True


@cache
def _names_of(classes: tuple[Any, ...]) -> frozenset[str]:
    return frozenset(item.name for cls in classes for item in fields(cls))


@cache
def _fields_of(cls: Any) -> list[tuple[str, bool, _Check]]:
    return [
        (
            item.name,
            item.default is MISSING and item.default_factory is MISSING and item.name not in VOLATILE_FIELDS,
            _check_of(str(item.type)),
        )
        for item in fields(cls)
    ]


@cache
def _check_of(annotation: str) -> _Check:
    """Return the check of an annotation's text. An unknown annotation is fitted by nothing."""
    if part := _PARTS.get(annotation):
        return lambda value: type(value) is dict and value.keys() <= _names_of((part,)) and _has_fields(value, part)
    if annotation.endswith("] | None"):
        inner = _check_of(annotation.removesuffix(" | None"))
        return lambda value: value is None or inner(value)
    if annotation.startswith("tuple[") and annotation.endswith(", ...]"):
        item = _check_of(annotation[len("tuple[") : -len(", ...]")])
        return lambda value: type(value) is list and all(map(item, value))
    if annotation == "dict[str, Any]":
        return lambda value: type(value) is dict
    if annotation.startswith("dict[str, "):
        item = _check_of(annotation[len("dict[str, ") : -1])
        return lambda value: type(value) is dict and all(map(item, value.values()))
    return _check_of_scalars(annotation)


def _check_of_scalars(annotation: str) -> _Check:
    if annotation.startswith("Literal["):
        literals = tuple(part.strip("'\" ") for part in annotation[len("Literal[") : -1].split(","))
        return lambda value: type(value) is str and value in literals
    kinds: frozenset[type] = frozenset()
    choices: tuple[str, ...] = ()
    for part in annotation.split(" | "):
        kinds |= _SCALARS.get(part, frozenset())
        choices += _CHOICES.get(part, ())
    return lambda value: type(value) in kinds or (type(value) is str and value in choices)
