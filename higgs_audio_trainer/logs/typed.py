"""Lines as typed events: instances of the classes in `events`, with the envelope's fields beside the payload.

`typed(record)` returns a subclass instance of the event's class in `events`, so `isinstance` and `match` work. An event
or a version unknown to this package becomes `Unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import MISSING as ABSENT
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from itertools import chain
from typing import Any, Protocol, get_type_hints

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION, VOLATILE_FIELDS, Envelope, PredictionSample, Window
from higgs_audio_trainer.logs.conversion import MISSING, InvalidField, convert

Record = dict[str, Any]
MARKS = frozenset({"nonfinite", "replaced", "shortened"})  # fields that list the values changed before writing
MORE = "..."  # entry of a mark whose list of paths was cut
_WINDOWS = ("first", "last")


class Logged(Protocol):
    """Attributes of every event read from a log.

    Attributes:
        event: Name of the event.
        v: Version of the event's schema.
        ts, run_id, attempt, seq: None in a golden file, which has no volatile fields.
        extra: Unknown fields, and the marks `nonfinite`, `replaced`, `shortened`. The name of a window's unknown field
            begins with the window, as in `first.probabilities`.
    """

    event: str
    v: int
    ts: str | None
    run_id: str | None
    attempt: int | None
    rank: int
    seq: int | None
    level: str
    extra: dict[str, Any]


def typed(record: Record) -> Any:
    """Return the typed event of a record, a `Logged`; or an `InvalidField` if the record does not fit the event's type.

    Volatile fields may be missing and are then None. A null in place of a NaN becomes NaN. A null in place of another
    value unknown to JSON makes the event `Unknown`.

    Example:
        >>> record = {"event": "checkpoint", "v": 1, "rank": 0, "level": "info", "step": 10, "path": "checkpoint-10"}
        >>> typed(record).step, typed(record).ts
        (10, None)
        >>> typed(record | {"step": "ten"})
        InvalidField(field='$.step', expected='int', got='str')
    """
    if record["event"] not in EVENTS or record.get("v") != SCHEMA_VERSION:
        return _unknown(record)
    cls = _as_read(record["event"])
    event = _converted(_with_nan(record, list(_texts(record["nonfinite"]))) if "nonfinite" in record else record, cls)
    if isinstance(event, InvalidField):
        if is_explained(record, event):
            return _converted(record, Unknown)
        if event.got == "null":
            return _converted(fill_nulls(record, math.nan), cls)
    return event


def _unknown(record: Record) -> Any:
    """Return an `Unknown`. Envelope fields of unexpected types are moved to `extra`."""
    known, others = record, {}
    while isinstance(event := _converted(known, Unknown), InvalidField):
        name = event.field.removeprefix("$.")
        if name not in known:
            return event
        others[name] = known[name]
        known = {key: value for key, value in known.items() if key != name}
    event.extra.update(others)
    return event


def is_explained(record: Record, found: InvalidField) -> bool:
    """Return True if a record's marks explain an invalid field.

    Marks never explain a missing top-level field, because cutting a line removes no field.
    """
    if found[1:] == MISSING:
        parent = found.field.rpartition(".")[0]
        return parent != "$" and is_marked(record, parent)
    return is_marked(record, found.field)


def is_marked(record: Record, path: str) -> bool:
    """Return True if a record marks a value as changed before writing.

    Args:
        record: Record of a line.
        path: Path of the value as in `InvalidField`, such as `$.first.labels[3]`.

    Example:
        >>> is_marked({"event": "train_step", "nonfinite": ["loss"]}, "$.loss")
        True
    """
    found, place = marks(record), path.removeprefix("$.")
    return bool(found) and any(mark in (MORE, place) or place.startswith((f"{mark}.", f"{mark}[")) for mark in found)


def is_any_marked(record: Record, names: Collection[str]) -> bool:
    """Return True if a record marks any of the fields, or a part of a field, as changed before writing.

    Example:
        >>> is_any_marked({"event": "train_step", "nonfinite": ["first.labels[3]"]}, ["first", "last"])
        True
    """
    if MARKS.isdisjoint(record):  # true of nearly every line
        return False
    return any(mark == MORE or mark.partition(".")[0].partition("[")[0] in names for mark in marks(record))


def marks(record: Record) -> Collection[str]:
    """List the paths of values that were changed before writing, and `MORE` if the list was cut.

    Example:
        >>> marks({"event": "train_step", "nonfinite": ["loss", "grad_norm"]})
        ['loss', 'grad_norm']
    """
    if MARKS.isdisjoint(record):  # true of nearly every line
        return ()
    found = list(chain.from_iterable(_texts(record.get(name)) for name in MARKS))
    return found if MARKS.isdisjoint(found) else [*found, MORE]  # a mark in a mark's list: the list was cut


def _texts(marks: Any) -> Iterable[str]:
    return (mark for mark in marks if isinstance(mark, str)) if isinstance(marks, (list, dict)) else ()


def _converted(record: Record, cls: Any) -> Any:
    known = _names(cls)
    if "extra" in record:  # an unknown field named like our attribute
        event = convert({name: value for name, value in record.items() if name != "extra"}, cls)
    else:
        event = convert(record, cls)
    if not isinstance(event, InvalidField) and not record.keys() <= known:
        event.extra.update((name, value) for name, value in record.items() if name not in known)
    if issubclass(cls, PredictionSample) and not isinstance(event, InvalidField):
        for window in _WINDOWS:
            if not record[window].keys() <= _names(Window):
                items = record[window].items()
                event.extra.update((f"{window}.{name}", value) for name, value in items if name not in _names(Window))
    return event


def _with_nan(record: Record, paths: Iterable[str]) -> Record:
    """Return a copy with NaN at the paths of NaN or infinite values. The marks do not distinguish the two."""
    copy = dict(record)
    items: dict[str, set[str]] = {}
    within: dict[str, list[str]] = {}
    for path in paths:
        head, dot, rest = path.partition(".")
        if dot:
            within.setdefault(head, []).append(rest)
            continue
        name, _, index = path.partition("[")
        if index:
            items.setdefault(name, set()).add(index.removesuffix("]"))
        elif name in copy and copy[name] is None:
            copy[name] = math.nan
    for name, indices in items.items():
        value = copy.get(name)
        if isinstance(value, list):
            copy[name] = [math.nan if str(i) in indices else item for i, item in enumerate(value)]
    for name in _WINDOWS:
        if name in within and isinstance(value := copy.get(name), dict):
            copy[name] = _with_nan(value, within[name])
    return copy


def fill_nulls(record: Record, number: float) -> Record:
    """Return a copy of a record with a number for each null in a required number field."""
    scalars, lists = number_fields(record["event"])
    copy = dict(record)
    copy.update((name, number) for name in scalars if name in copy and copy[name] is None)
    for name in lists:
        value = copy.get(name)
        if isinstance(value, list):
            copy[name] = [number if item is None else item for item in value]
    return copy


@cache
def number_fields(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of an event's number fields, without optional fields, and of the fields with a list of numbers.

    Example:
        >>> "loss" in number_fields("train_step")[0], "audio_loss_per_codebook" in number_fields("train_step")[1]
        (True, True)
    """
    hints = get_type_hints(EVENTS[name])
    return (
        tuple(key for key, hint in hints.items() if hint is float),
        tuple(key for key, hint in hints.items() if hint in (tuple[float, ...], tuple[float, ...] | None)),
    )


@cache
def _names(cls: Any) -> frozenset[str]:
    return frozenset(item.name for item in fields(cls)) - {"extra"}


@cache
def _as_read(name: str) -> Any:
    """Return the class of an event as read: the payload's class with the fields of the envelope and `extra`.

    Volatile fields are optional, and so are fields added after the first version. The class is created at the first
    line of the event, because the creation of all classes takes as long as the start of Python.
    """
    payload = EVENTS[name]
    members: list[tuple[str, Any, Any]] = []
    for cls in (Envelope, payload):
        hints = get_type_hints(cls)
        for item in fields(cls):
            hint, default, factory = hints[item.name], item.default, item.default_factory
            if item.name in VOLATILE_FIELDS:
                hint, default = hint | None, None if default is ABSENT else default
            declared = field(default=default) if factory is ABSENT else field(default_factory=factory)
            members.append((item.name, hint, declared))
    members.append(("extra", dict[str, Any], field(default_factory=dict, init=False)))
    return make_dataclass(payload.__name__, members, bases=(payload,), frozen=True, slots=True, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An event or version unknown to this package, or an event with values unknown to JSON.

    An envelope field with an unexpected type is None, with the value in `extra`.
    """

    event: str
    v: int | None = None
    ts: str | None = None
    run_id: str | None = None
    attempt: int | None = None
    rank: int | None = None
    seq: int | None = None
    level: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, init=False)
