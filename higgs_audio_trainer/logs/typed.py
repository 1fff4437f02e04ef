"""Lines as typed events: the classes of `events` with the envelope beside the payload, as the line has them.

`typed(record)` makes one. It is an instance of the event's class in `events`, so `isinstance` and `match` work, and it
has the fields of `Envelope` besides. An event or a version that this package does not know becomes `Unknown`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, make_dataclass
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Protocol, get_args, get_origin, get_type_hints

import msgspec

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION, VOLATILE_FIELDS, Envelope

Record = dict[str, Any]
_LONGEST_VALUE = 80  # of a value in a message


class Logged(Protocol):
    """What every event has that was read from a log.

    Attributes:
        event: its name.
        v: version of its schema.
        ts, run_id, attempt, seq: None in a golden, which has no field that two runs may differ in.
        extra: fields of the line that this version does not know, and the marks `nonfinite`, `replaced`, `shortened`.
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


class Misfit(NamedTuple):
    """What in a line is not as its type says: the fields of a `Fault` but for its place."""

    field: str
    expected: str
    got: str


def typed(record: Record) -> Any:
    """Make the typed event of a record, a `Logged`; or a `Misfit` where none can be made.

    Fields that two runs may differ in may be missing, and are None. A null that stands for NaN is NaN again; one that
    stands for another value that no line can hold makes the event `Unknown`.
    """
    cls = LOGGED.get(record["event"]) if record.get("v") == SCHEMA_VERSION else None
    if cls is None:
        return _converted(record, Unknown)
    event = _converted(_with_nan(record) if "nonfinite" in record else record, cls)
    if isinstance(event, Misfit):
        if marked(record, event.field):
            return _converted(record, Unknown)
        if event.got == "null":
            return _converted(_without_null(record), cls)
    return event


def misfit(record: Record) -> Misfit | None:
    """Say what in a record of a known event is not as its schema says, if anything is: types, bounds and patterns."""
    event = _converted(record, _schema_class(record["event"]))
    if not isinstance(event, Misfit) or marked(record, event.field):
        return None
    if event.got == "null":
        event = _converted(_without_null(record), _schema_class(record["event"]))
    return event if isinstance(event, Misfit) else None


def marked(record: Record, path: str) -> bool:
    """Tell whether a record says of a value that it is not the one that was emitted.

    Args:
        record: a line.
        path: of the value, as in `Misfit`: `$.first.labels[3]`.
    """
    marks = [*_texts(record.get("nonfinite")), *_texts(record.get("replaced")), *_texts(record.get("shortened"))]
    place = path.removeprefix("$.")
    return "..." in marks or any(place == mark or re.match(rf"{re.escape(mark)}[.\[]", place) for mark in marks)


def _texts(marks: Any) -> Iterable[str]:
    return (mark for mark in marks if isinstance(mark, str)) if isinstance(marks, (list, dict)) else ()


def _converted(record: Record, cls: Any) -> Any:
    known = _names(cls)
    if "extra" in record:  # a field of the line, and not ours
        event = _convert({name: value for name, value in record.items() if name != "extra"}, cls)
    else:
        event = _convert(record, cls)
    if not isinstance(event, Misfit) and not record.keys() <= known:
        event.extra.update((name, value) for name, value in record.items() if name not in known)
    return event


def _convert(record: Record, cls: Any) -> Any:
    try:
        return msgspec.convert(record, cls)
    except msgspec.ValidationError as error:
        return _misfit_of(str(error), record, cls)


_EXPECTED = re.compile(r"Expected (?P<expected>.*?)(?:, got (?P<got>.*?))?(?: - at `(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `(?P<path>.*)`)?", re.DOTALL)
_PLACE = re.compile(r"[^.\[\]$]+|\[\d+\]")


def _misfit_of(message: str, record: Record, cls: Any) -> Misfit:
    """Put what msgspec says into the form of a fault."""
    if missing := _MISSING.fullmatch(message):
        return Misfit(f"{missing['path'] or '$'}.{missing['name']}", "this field", "none")
    path = message.rpartition(" - at `")[2].removesuffix("`")
    if wrong := _EXPECTED.fullmatch(message):
        expected = wrong["expected"].replace("`", "")
        return Misfit(path, expected, wrong["got"].strip("`") if wrong["got"] else _shown(_value_at(record, path)))
    choices = _choices(cls).get(path.removeprefix("$."))
    expected = " or ".join(choices) if choices else "another value"
    return Misfit(path, expected, _shown(_value_at(record, path)))


def _value_at(record: Any, path: str) -> Any:
    for step in _PLACE.findall(path.removeprefix("$")):
        try:
            record = record[int(step[1:-1])] if step.startswith("[") else record[step]
        except (KeyError, IndexError, TypeError):
            return None
    return record


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _with_nan(record: Record) -> Record:
    """Put NaN where a record says that there was a NaN or an infinity; it does not say which."""
    copy = dict(record)
    for path in _texts(record["nonfinite"]):
        name, _, index = path.partition("[")
        value = copy.get(name)
        if not index:
            copy[name] = math.nan if value is None and name in copy else value
        elif isinstance(value, list) and index[:-1].isdecimal() and int(index[:-1]) < len(value):
            copy[name] = [math.nan if i == int(index[:-1]) else item for i, item in enumerate(value)]
    return copy


def _without_null(record: Record) -> Record:
    """Put NaN for each null that stands where a number must."""
    scalars, lists = _numbers(record["event"])
    copy = dict(record)
    copy.update((name, math.nan) for name in scalars if name in copy and copy[name] is None)
    for name in lists:
        value = copy.get(name)
        if isinstance(value, list):
            copy[name] = [math.nan if item is None else item for item in value]
    return copy


@cache
def _numbers(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the fields of an event that hold a number, and those that hold a list of numbers, never null."""
    hints = get_type_hints(EVENTS[name])
    return (
        tuple(key for key, hint in hints.items() if hint is float),
        tuple(key for key, hint in hints.items() if hint == tuple[float, ...]),
    )


@cache
def _names(cls: Any) -> frozenset[str]:
    return frozenset(item.name for item in fields(cls)) - {"extra"}


@cache
def _choices(cls: Any) -> Mapping[str, tuple[str, ...]]:
    hints = get_type_hints(cls)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _as_read(payload: type[Any], *, strict: bool) -> Any:
    """Make the class of a line: a payload's class, with the envelope and what is unknown beside it.

    Args:
        payload: class of the event.
        strict: take each field as its schema does, with bounds and pattern. Else its type alone counts, and what two
            runs may differ in may be missing.
    """
    members: list[tuple[str, Any, Any]] = []
    for cls in (Envelope, payload):
        hints = get_type_hints(cls)
        for item in fields(cls):
            hint, default = hints[item.name], item.default
            if strict:
                hint = _bounded(item, hint)
            elif item.name in VOLATILE_FIELDS:
                hint, default = hint | None, None
            members.append((item.name, hint, field(default=default)))
    members.append(("extra", dict[str, Any], field(default_factory=dict, init=False)))
    return make_dataclass(payload.__name__, members, bases=(payload,), frozen=True, slots=True, kw_only=True)


def _bounded(item: Field[Any], hint: Any) -> Any:
    bounds = {ours: item.metadata[theirs] for theirs, ours in _BOUNDS.items() if theirs in item.metadata}
    return Annotated[hint, msgspec.Meta(**bounds)] if bounds else hint


_BOUNDS = {"minimum": "ge", "pattern": "pattern"}  # JSON Schema's words, and msgspec's


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An event, or a version of one, that this package does not know; or one whose values no line could hold."""

    event: str
    v: int | None = None
    ts: str | None = None
    run_id: str | None = None
    attempt: int | None = None
    rank: int | None = None
    seq: int | None = None
    level: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, init=False)


#: The class of each event as `typed` makes it.
LOGGED: Mapping[str, Any] = {name: _as_read(cls, strict=False) for name, cls in EVENTS.items()}
_schema_class = cache(lambda name: _as_read(EVENTS[name], strict=True))  # a reader has no need of them
