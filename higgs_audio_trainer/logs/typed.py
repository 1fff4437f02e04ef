"""Lines as typed events: the classes of `events` with the envelope beside the payload, as the line has them.

`typed(record)` makes one. It is an instance of the event's class in `events`, so `isinstance` and `match` work, and it
has the fields of `Envelope` besides. An event or a version that this package does not know becomes `Unknown`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING as ABSENT
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from itertools import chain
from types import NoneType
from typing import Any, Literal, NamedTuple, Protocol, get_args, get_origin, get_type_hints

import msgspec

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION, VOLATILE_FIELDS, Envelope, PredictionSample, Window

Record = dict[str, Any]
MARKS = frozenset({"nonfinite", "replaced", "shortened"})  # what says which values are not those that were emitted
MORE = "..."  # among them: there were more than they list
MISSING = ("this field", "none")  # what is expected and found where a field is not there
_WINDOWS = ("first", "last")
_LONGEST_VALUE = 80  # of a value in a message


class Logged(Protocol):
    """What every event has that was read from a log.

    Attributes:
        event: its name.
        v: version of its schema.
        ts, run_id, attempt, seq: None in a golden, which has no field that two runs may differ in.
        extra: fields of the line that this version does not know, and the marks `nonfinite`, `replaced`, `shortened`.
            Of a window they have its name before them: `first.probabilities`.
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
    """What in a line is not as its type says: the fields of a `InputProblem` but for its place."""

    field: str
    expected: str
    got: str


def typed(record: Record) -> Any:
    """Make the typed event of a record, a `Logged`; or a `Misfit` where none can be made.

    Fields that two runs may differ in may be missing, and are None. A null that stands for NaN is NaN again; one that
    stands for another value that no line can hold makes the event `Unknown`.
    """
    if record["event"] not in EVENTS or record.get("v") != SCHEMA_VERSION:
        return _unknown(record)
    cls = _as_read(record["event"])
    event = _converted(_with_nan(record, list(_texts(record["nonfinite"]))) if "nonfinite" in record else record, cls)
    if isinstance(event, Misfit):
        if excused(record, event):
            return _converted(record, Unknown)
        if event.got == "null":
            return _converted(without_null(record, math.nan), cls)
    return event


def _unknown(record: Record) -> Any:
    """Make an `Unknown`. What is in its envelope, and not of the type that we know, is kept in `extra`."""
    known, others = record, {}
    while isinstance(event := _converted(known, Unknown), Misfit):
        name = event.field.removeprefix("$.")
        if name not in known:
            return event
        others[name] = known[name]
        known = {key: value for key, value in known.items() if key != name}
    event.extra.update(others)
    return event


def excused(record: Record, found: Misfit) -> bool:
    """Tell whether a record itself accounts for what is wrong in it. Whatever cuts a line cuts no field of it off."""
    if found[1:] == MISSING:
        parent = found.field.rpartition(".")[0]
        return parent != "$" and marked(record, parent)
    return marked(record, found.field)


def marked(record: Record, path: str) -> bool:
    """Tell whether a record says of a value that it is not the one that was emitted.

    Args:
        record: a line.
        path: of the value, as in `Misfit`: `$.first.labels[3]`.
    """
    found, place = marks(record), path.removeprefix("$.")
    return bool(found) and any(mark in (MORE, place) or place.startswith((f"{mark}.", f"{mark}[")) for mark in found)


def marks(record: Record) -> Collection[str]:
    """List the paths of values that a record says are not the ones that were emitted; `MORE` for more than it lists."""
    if MARKS.isdisjoint(record):  # as nearly every line
        return ()
    found = list(chain.from_iterable(_texts(record.get(name)) for name in MARKS))
    return found if MARKS.isdisjoint(found) else [*found, MORE]  # a list of marks was cut itself


def _texts(marks: Any) -> Iterable[str]:
    return (mark for mark in marks if isinstance(mark, str)) if isinstance(marks, (list, dict)) else ()


def _converted(record: Record, cls: Any) -> Any:
    known = _names(cls)
    if "extra" in record:  # a field of the line, and not ours
        event = convert({name: value for name, value in record.items() if name != "extra"}, cls)
    else:
        event = convert(record, cls)
    if not isinstance(event, Misfit) and not record.keys() <= known:
        event.extra.update((name, value) for name, value in record.items() if name not in known)
    if issubclass(cls, PredictionSample) and not isinstance(event, Misfit):
        for window in _WINDOWS:
            if not record[window].keys() <= _names(Window):
                items = record[window].items()
                event.extra.update((f"{window}.{name}", value) for name, value in items if name not in _names(Window))
    return event


def convert(record: Record, cls: Any) -> Any:
    """Make an instance of a class, or a `Misfit`."""
    try:
        return msgspec.convert(record, cls)
    except msgspec.ValidationError as error:
        return _misfit_of(str(error), record, cls)


_EXPECTED = re.compile(r"Expected (?P<expected>.*?)(?:, got (?P<got>.*?))?(?: - at `(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `(?P<path>.*)`)?", re.DOTALL)
_SOME_KEY = "[...]"  # how msgspec names a key of a mapping, whichever it is
_NAMES = {str: "str", int: "int", float: "float", bool: "bool", NoneType: "null", list: "array", dict: "object"}
_PLACE = re.compile(r"[^.\[\]$]+|\[\d+\]")


def _misfit_of(message: str, record: Record, cls: Any) -> Misfit:
    """Put what msgspec says into the form of a fault."""
    if missing := _MISSING.fullmatch(message):
        return Misfit(f"{missing['path'] or '$'}.{missing['name']}", *MISSING)
    path = message.rpartition(" - at `")[2].removesuffix("`")
    if path.endswith(_SOME_KEY):
        path = _with_key(path, message, record)
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


def _with_key(path: str, message: str, record: Record) -> str:
    """Name the key of a mapping, which msgspec does not: that of the first value of the type that it found."""
    parent = path.removesuffix(_SOME_KEY)
    mapping, wrong = _value_at(record, parent), _EXPECTED.fullmatch(message)
    if isinstance(mapping, dict) and wrong and wrong["got"]:
        for key, value in mapping.items():
            if _NAMES.get(type(value)) == wrong["got"].strip("`"):
                return f"{parent}.{key}"
    return path


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _with_nan(record: Record, paths: Iterable[str]) -> Record:
    """Put NaN where paths say that there was a NaN or an infinity; they do not say which."""
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


def without_null(record: Record, number: float) -> Record:
    """Put a number for each null that stands where one must."""
    scalars, lists = numbers(record["event"])
    copy = dict(record)
    copy.update((name, number) for name in scalars if name in copy and copy[name] is None)
    for name in lists:
        value = copy.get(name)
        if isinstance(value, list):
            copy[name] = [number if item is None else item for item in value]
    return copy


@cache
def numbers(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
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


@cache
def _as_read(name: str) -> Any:
    """Make the class of an event's line: its payload's class, with the envelope and what is unknown beside it.

    What two runs may differ in may be missing, and so may what was added after the first logs were written. It is made
    when the first such line is read: all of them take as long to make as Python does to start.
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
    """An event, or a version of one, that this package does not know; or one whose values no line could hold.

    A field of the envelope that is of another type than here is None, and in `extra`.
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
