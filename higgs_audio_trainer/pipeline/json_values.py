"""Conversion of a record to JSON values, with a mark for every replaced value.

The conversion is pure. The result holds exact builtins, and the input is never changed. A line can hold null, booleans,
integers from -2**63 to 2**64 - 1, finite floats, Unicode text, lists, and mappings with text keys.

- NaN and infinities become null. `nonfinite` lists the paths.
- Integers beyond 64 bits become the nearest allowed integer, lone surrogates are escaped, all other values become null.
  `replaced` maps the path to a description.
- Subclasses of builtins (`IntEnum`, `np.float64`, `torch.Size`, `OrderedDict`) become the builtin without a mark,
  because no information is lost.

A description names type, shape, dtype and device. The data of an object is never read: reading a tensor could wait for
a device, or start a collective without the other ranks.

A null fits the schema of every float field. In a field of integers or text, a replaced value breaks the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from math import isfinite
from types import NoneType
from typing import Any

import orjson

from higgs_audio_trainer.pipeline.description import describe, short

Record = dict[str, Any]
#: Path of a value: the path of its container, and the key or index in the container. A chain costs less than a text.
Place = tuple["Place | None", "str | int"]

MAX_DEPTH = 64  # orjson refuses a depth of 254, and sinks recurse too
MAX_CONTAINERS = 10_000  # 64 lists that share lists can expand to 2**64 lists
MAX_MARKS = 100
MAX_PATH = 200
MAX_COMBINED_DESCRIPTION = 360
MORE = "..."  # last mark of a record with more than `MAX_MARKS` marks

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_SINGLE = frozenset({bool, NoneType})  # every value of these types fits
_INTS = _SINGLE | {int}
_FLOATS = _SINGLE | {float}
_LEAVES = _SINGLE | {int, float, str}


def to_json_values(record: Mapping[str, Any]) -> tuple[Record, int]:
    """Return a copy of a record for a line of JSON, and the number of replaced values.

    Tuples of numbers that fit are shared with the record, without a loop over the elements in Python.

    Example:
        >>> record, count = to_json_values({"loss": float("nan"), "path": b"x", "shape": (3, 4)})
        >>> record["loss"], record["nonfinite"], record["replaced"], count
        (None, ['loss'], {'path': '<bytes>'}, 2)
    """
    if (plain := plain_record(record)) is not None:
        return plain[0], 0
    copier = _Copier()
    copied: Record = copier.copy_dict(record, None, 0)
    if copier.nonfinite:
        copied["nonfinite"] = copier.nonfinite
    if copier.replaced:
        copied["replaced"] = copier.replaced
    return copied, copier.count


def plain_record(record: Mapping[str, Any]) -> tuple[Record, bytes] | None:
    r"""Return a copy of a record with fitting values only, and the copy as a line of JSON. None for every other record.

    Nearly all records fit. This function checks types and floats. orjson checks integers, texts and keys in C, and
    refuses values without a JSON form.

    Example:
        >>> plain_record({"step": 1, "shape": (3, 4)})
        ({'step': 1, 'shape': (3, 4)}, b'{"step":1,"shape":[3,4]}\n')
        >>> plain_record({"loss": float("nan")})
    """
    try:
        copied = _plain(record)
        return None if copied is None else (copied, orjson.dumps(copied, option=orjson.OPT_APPEND_NEWLINE))
    except Exception:  # noqa: BLE001 - a type or orjson refuses a value; the copier marks the value
        return None


def _plain(record: Mapping[str, Any]) -> Record | None:
    """Return a copy of a record with values that orjson writes or refuses, None for every other record."""
    copied = dict(record)
    inner: list[Any] = []
    for key, value in record.items():
        kind = type(value)
        if kind in _LEAVES:
            if kind is float and not isfinite(value):
                return None
        elif kind is tuple:
            inner += value
        elif kind is dict:
            copied[key] = mapping = value.copy()  # a dict may change later, a tuple cannot
            for item in mapping.values():
                if type(item) is tuple:
                    inner += item
                else:
                    inner.append(item)
        else:
            return None
    kinds = set(map(type, inner))
    if not kinds <= _LEAVES or (float in kinds and not all(isfinite(item) for item in inner if type(item) is float)):
        return None
    return copied


def _unicode(text: str) -> str:
    """Return a text with escaped lone surrogates, the same object if the text has no lone surrogates."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _fit(values: tuple[Any, ...] | list[Any]) -> bool:
    """Return True if all elements are scalars and fit, False if the elements need the copier. Loops in C."""
    kinds = set(map(type, values))
    if len(kinds) == 1:
        kind = kinds.pop()
        if kind is int:
            return bool(min(values) >= _MIN_INT and max(values) <= _MAX_INT)
        if kind is float:
            return all(map(isfinite, values))
        return kind in _SINGLE if kind is not str else all(map(str.isascii, values))
    if kinds <= _INTS:  # None has no order; `filter` removes None, and zeros, which fit
        least, most = min(filter(None, values), default=0), max(filter(None, values), default=0)
        return bool(least >= _MIN_INT and most <= _MAX_INT)
    return kinds <= _FLOATS and all(map(isfinite, filter(None, values)))


class _Copier:
    """A copy of one record in the making, and the marks of the replaced values."""

    __slots__ = ("_containers", "_open", "count", "nonfinite", "replaced")

    def __init__(self) -> None:
        self.count = 0
        self.nonfinite: list[str] = []
        self.replaced: dict[str, str] = {}
        self._open: set[int] = set()  # identities of the containers around the present value
        self._containers = 0

    def copy(self, value: Any, path: Place, depth: int) -> Any:
        """Return a copy of a value, or the replacement of a value that does not fit."""
        kind = type(value)
        if kind is str:
            return value if value.isascii() else self._text(value, path)
        if kind is int:
            return value if _MIN_INT <= value <= _MAX_INT else self._clamped(value, path)
        if kind is float:
            return value if isfinite(value) else self._not_finite(path)
        if value is None or kind is bool or (kind is tuple and _fit(value)):  # a tuple needs no copy
            return value
        if kind is tuple or kind is list or kind is dict:
            return self._container(value, path, depth)
        return self._other(value, kind, path, depth)

    def _text(self, value: str, path: Place) -> str:
        text = _unicode(value)
        if text is not value:
            self._mark(path, "<text with lone surrogates>")
        return text

    def _clamped(self, value: int, path: Place) -> int:
        self._mark(path, f"<int of {value.bit_length()} bits>")  # no digits: str() refuses very long integers
        return _MAX_INT if value > 0 else _MIN_INT

    def _not_finite(self, path: Place) -> None:
        self.count += 1
        if len(self.nonfinite) <= MAX_MARKS:
            self.nonfinite.append(_written(path) if len(self.nonfinite) < MAX_MARKS else MORE)

    def _other(self, value: Any, kind: type, path: Place, depth: int) -> Any:
        """Return the builtin of a subclass, a dict of a foreign mapping, null for every other type."""
        # Methods of the builtin base do the work. Overridden methods of the subclass are not called.
        if issubclass(kind, str):
            return self._text(str.__str__(value), path)
        if issubclass(kind, int):
            return self.copy(int.__int__(value), path, depth)
        if issubclass(kind, float):
            return self.copy(float.__float__(value), path, depth)
        if issubclass(kind, (tuple, list, dict)) or _is_mapping(kind):
            return self._container(value, path, depth)
        return self._mark(path, describe(value))

    def _container(self, value: Any, path: Place, depth: int) -> Any:
        if depth >= MAX_DEPTH:
            return self._mark(path, f"<nested deeper than {MAX_DEPTH}>")
        if id(value) in self._open:
            return self._mark(path, "<cycle>")
        if self._containers >= MAX_CONTAINERS:
            return self._mark(path, f"<beyond {MAX_CONTAINERS} lists and mappings>")
        self._containers += 1
        self._open.add(id(value))
        try:
            return self._copy_container(value, type(value), path, depth)
        except Exception as error:  # noqa: BLE001 - a foreign mapping or key may raise anything; the value is marked
            return self._mark(path, f"{describe(value)} that raised {describe(error)}")
        finally:
            self._open.discard(id(value))

    def _copy_container(self, value: Any, kind: type, path: Place, depth: int) -> Any:
        # The builtin's own method copies lists and dicts in one piece, because another thread may change the container.
        if issubclass(kind, tuple):
            return self._copy_elements(tuple.__getitem__(value, slice(None)), path, depth)
        if issubclass(kind, list):
            return self._copy_elements(list.copy(value), path, depth)
        if kind is dict:
            return self.copy_dict(value.copy(), path, depth)
        if issubclass(kind, dict):
            return self.copy_dict(dict(dict.items(value)), path, depth)
        entries = dict(islice(value.items(), MAX_CONTAINERS + 1))  # a foreign mapping may be endless
        if len(entries) > MAX_CONTAINERS:
            return self._mark(path, f"{describe(value)} of more than {MAX_CONTAINERS} entries")
        return self.copy_dict(entries, path, depth)

    def _copy_elements(self, values: tuple[Any, ...] | list[Any], path: Place, depth: int) -> Any:
        if _fit(values):
            return values
        return [self.copy(item, (path, index), depth + 1) for index, item in enumerate(values)]

    def copy_dict(self, values: Mapping[Any, Any], path: Place | None, depth: int) -> Record:
        """Return a dict with all entries of a mapping, under text keys."""
        copied: Record = {}
        for key, value in values.items():
            name = key
            if type(key) is not str or not key.isascii() or key in copied:
                name = self._name(key, copied, path)
            copied[name] = self.copy(value, (path, name), depth + 1)
        return copied

    def _name(self, key: Any, copied: Record, path: Place | None) -> str:
        """Return a unique text for a key. Mark the entry if the text differs from the key."""
        name, what = _key(key)
        if name in copied:
            what = what or "<a key like another's>"
            number = len(copied) + 1  # so that each of many equal keys needs one attempt
            while f"{name} ({number})" in copied:
                number += 1
            name = f"{name} ({number})"
        if what:
            self._mark((path, name), what)
        return name

    def _mark(self, path: Place, what: str) -> None:
        self.count += 1
        name = _written(path)
        if name in self.replaced:  # of a key and its value, or of keys with dots, whose paths are equal
            self.replaced[name] = short(f"{self.replaced[name]}, {what}", MAX_COMBINED_DESCRIPTION)
        elif len(self.replaced) < MAX_MARKS:
            self.replaced[name] = what
        else:
            self.replaced[MORE] = "<more>"


def _is_mapping(kind: type) -> bool:
    try:
        return issubclass(kind, Mapping)
    except Exception:  # noqa: BLE001 - a foreign metaclass may raise anything; then the type counts as no mapping
        return False


def _key(key: Any) -> tuple[str, str]:
    """Return a key as text, and the mark of a key that text cannot represent, else an empty mark."""
    kind = type(key)
    if issubclass(kind, str):
        text = str.__str__(key)
        name = _unicode(text)
        return name, "" if name is text else "<text with lone surrogates, as key>"
    if kind is int and not _MIN_INT <= key <= _MAX_INT:
        name = f"<int of {key.bit_length()} bits>"
    elif key is None or kind in (bool, int, float):
        return str(key), ""
    else:
        name = describe(key)
    return name, f"{name[:-1]}, as key>"


def _written(path: Place) -> str:
    """Return a path as text.

    Example:
        >>> _written((((None, "config"), "limits"), 1))
        'config.limits[1]'
    """
    parts: list[str] = []
    step: Place | None = path
    while step is not None:
        step, place = step
        if isinstance(place, int):
            parts.append(f"[{place}]")
        else:
            parts.append(f".{short(place, MAX_PATH)}" if step is not None else short(place, MAX_PATH))
    return short("".join(reversed(parts)), MAX_PATH)
