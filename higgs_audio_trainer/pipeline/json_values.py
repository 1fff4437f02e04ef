"""Values made fit for a line of JSON: what no line can hold gets a fallback, and a mark that says what stood there.

Pure: a record in, a record of exact builtins out; what was given is never changed. A line can hold null, booleans,
integers from -2**63 to 2**64 - 1, finite floats, Unicode text, lists, and mappings whose keys are text.

- NaN and infinities become null; `nonfinite` lists their paths.
- Integers beyond 64 bits become the nearest that fits, lone surrogates are escaped, everything else becomes null;
  `replaced` gives path and description.
- Subclasses of builtins (`IntEnum`, `np.float64`, `torch.Size`, `OrderedDict`) become the builtin, unmarked: nothing
  is lost.

Objects are described by their type, shape, dtype and device alone. Their data is not touched: a look into a tensor
could wait for a device, or start a collective that the other ranks never join.

A null fits the schema of every number with a fraction. That a field of integers or of text holds some is what the
types of the events promise; a tensor there is named in `replaced`, but the line does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from math import isfinite
from types import NoneType
from typing import Any

import orjson

Record = dict[str, Any]
#: Where a value stands: the place of what holds it, and the key or index in it. A chain costs less than a text.
Place = tuple["Place | None", "str | int"]

MAX_DEPTH = 64  # orjson refuses 254 and more, and sinks recurse too
MAX_CONTAINERS = 10_000  # lists that share lists can make 2**64 of them out of 64
MAX_MARKS = 100
MAX_PATH = 200
MAX_DESCRIPTION = 120
MORE = "..."  # stands at the end of the marks where there were more

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_SINGLE = frozenset({bool, NoneType})  # types without a value that does not fit
_INTS = _SINGLE | {int}
_FLOATS = _SINGLE | {float}
_LEAVES = _SINGLE | {int, float, str}


def to_json_values(record: Mapping[str, Any]) -> tuple[Record, int]:
    """Copy a record so that a line of JSON can hold it; count the values that were replaced.

    A tuple of numbers that fit is passed on as it is, without a loop over its elements in Python.
    """
    try:
        plain = _plain(record)
    except Exception:  # noqa: BLE001 - whatever raised, the closer look marks it
        plain = None
    if plain is not None:
        return plain, 0
    copier = _Copier()
    copied: Record = copier.copy_dict(record, None, 0)
    if copier.nonfinite:
        copied["nonfinite"] = copier.nonfinite
    if copier.replaced:
        copied["replaced"] = copier.replaced
    return copied, copier.count


def _plain(record: Mapping[str, Any]) -> Record | None:
    """Copy a record in which everything fits, as in nearly all; None where a closer look is needed.

    Types and numbers with a fraction are looked at here; integers, texts and keys that no line can hold are refused by
    orjson, which looks in C.

    Raises:
        Exception: it holds what orjson refuses, or a key that cannot be compared.
    """
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
            copied[key] = mapping = value.copy()  # it may change; a tuple cannot
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
    orjson.dumps(copied)
    return copied


def describe(value: object) -> str:
    """Say in a few words what an object is, by its type and, for an array, its shape, dtype and device."""
    kind = type(value)
    words = []
    for say in (_type_word, _shape_word, _dtype_word, _device_word):
        with suppress(Exception):  # whatever a foreign type raises costs that word; the value is marked all the same
            words.append(say(value, kind))
    return f"<{short(', '.join(filter(None, words)) or 'object', MAX_DESCRIPTION)}>"


def _type_word(_value: object, kind: type) -> str:
    name, module = str(kind.__qualname__), str(kind.__module__)
    return name if module == "builtins" else f"{module}.{name}"


def _shape_word(value: object, kind: type) -> str:
    # The type is asked first: an object that invents attributes may compute them.
    shape: Any = getattr(value, "shape", None) if hasattr(kind, "shape") else None
    if not issubclass(type(shape), tuple):
        return ""
    sizes = _exact(shape)
    return f"shape {list(sizes)}" if set(map(type, sizes)) <= {int} else ""


def _dtype_word(value: object, kind: type) -> str:
    return _attribute_word(value, kind, "dtype")


def _device_word(value: object, kind: type) -> str:
    return _attribute_word(value, kind, "device")


def _attribute_word(value: object, kind: type, name: str) -> str:
    found = getattr(value, name, None) if hasattr(kind, name) else None
    # The text of a dtype or a device of torch or numpy and of nothing else: it might be a tensor's.
    if type(found) is str or type(found).__name__.endswith(("dtype", "DType", "device")):
        return f"{name} {found}"
    return ""


def short(text: str, limit: int) -> str:
    """Cut the middle out of a text; what is left can be encoded and printed on one line."""
    text = _cut(text, limit)
    return text if text.isprintable() else _cut(ascii(text)[1:-1], limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 60]}...{text[-57:]}"


def _unicode(text: str) -> str:
    """Escape lone surrogates; a text without them is returned as it is."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _fit(values: tuple[Any, ...] | list[Any]) -> bool:
    """Tell whether all elements are leaves that fit, at the speed of C; False where a closer look is needed."""
    kinds = set(map(type, values))
    if len(kinds) == 1:
        kind = kinds.pop()
        if kind is int:
            return bool(min(values) >= _MIN_INT and max(values) <= _MAX_INT)
        if kind is float:
            return all(map(isfinite, values))
        return kind in _SINGLE if kind is not str else all(map(str.isascii, values))
    if kinds <= _INTS:  # None has no order; zeros may go with it
        least, most = min(filter(None, values), default=0), max(filter(None, values), default=0)
        return bool(least >= _MIN_INT and most <= _MAX_INT)
    return kinds <= _FLOATS and all(map(isfinite, filter(None, values)))


class _Copier:
    """Copies one record and collects the marks."""

    __slots__ = ("_containers", "_open", "count", "nonfinite", "replaced")

    def __init__(self) -> None:
        self.count = 0
        self.nonfinite: list[str] = []
        self.replaced: dict[str, str] = {}
        self._open: set[int] = set()  # the containers that the present value stands in
        self._containers = 0

    def copy(self, value: Any, path: Place, depth: int) -> Any:
        """Copy one value, or make its fallback."""
        kind = type(value)
        if kind is str:
            return value if value.isascii() else self._text(value, path)
        if kind is int:
            return value if _MIN_INT <= value <= _MAX_INT else self._clamped(value, path)
        if kind is float:
            return value if isfinite(value) else self._not_finite(path)
        if value is None or kind is bool or (kind is tuple and _fit(value)):  # a tuple cannot change: it needs no copy
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
        self._mark(path, f"<int of {value.bit_length()} bits>")  # in words: its digits may be more than str() makes
        return _MAX_INT if value > 0 else _MIN_INT

    def _not_finite(self, path: Place) -> None:
        self.count += 1
        if len(self.nonfinite) <= MAX_MARKS:
            self.nonfinite.append(_written(path) if len(self.nonfinite) < MAX_MARKS else MORE)

    def _other(self, value: Any, kind: type, path: Place, depth: int) -> Any:
        """Copy a value of another type: as the builtin that it is, as a mapping, or as null."""
        # The type is asked, and its builtin base does the work: what the subclass overrides is not called.
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
        except Exception as error:  # noqa: BLE001 - whatever a foreign mapping or key raises: it is marked and counted
            return self._mark(path, f"{describe(value)} that raised {describe(error)}")
        finally:
            self._open.discard(id(value))

    def _copy_container(self, value: Any, kind: type, path: Place, depth: int) -> Any:
        # Lists and dicts are taken in one piece, by the builtin's own method: another thread may be changing them.
        if issubclass(kind, tuple):
            return self._copy_elements(_exact(value), path, depth)
        if issubclass(kind, list):
            return self._copy_elements(list.copy(value), path, depth)
        if kind is dict:
            return self.copy_dict(value.copy(), path, depth)
        if issubclass(kind, dict):
            return self.copy_dict(dict(dict.items(value)), path, depth)
        entries = dict(islice(value.items(), MAX_CONTAINERS + 1))  # a foreign mapping may have no end
        if len(entries) > MAX_CONTAINERS:
            return self._mark(path, f"{describe(value)} of more than {MAX_CONTAINERS} entries")
        return self.copy_dict(entries, path, depth)

    def _copy_elements(self, values: tuple[Any, ...] | list[Any], path: Place, depth: int) -> Any:
        if _fit(values):
            return values
        return [self.copy(item, (path, index), depth + 1) for index, item in enumerate(values)]

    def copy_dict(self, values: Mapping[Any, Any], path: Place | None, depth: int) -> Record:
        """Copy a mapping; each of its entries stays, under a key of text."""
        copied: Record = {}
        for key, value in values.items():
            name = key
            if type(key) is not str or not key.isascii() or key in copied:
                name = self._name(key, copied, path)
            copied[name] = self.copy(value, (path, name), depth + 1)
        return copied

    def _name(self, key: Any, copied: Record, path: Place | None) -> str:
        """Make the text of a key that no other entry has; mark it where it says less than the key did, or more."""
        name, what = _key(key)
        if name in copied:
            what = what or "<a key like another's>"
            number = len(copied) + 1  # so that many alike need one try each
            while f"{name} ({number})" in copied:
                number += 1
            name = f"{name} ({number})"
        if what:
            self._mark((path, name), what)
        return name

    def _mark(self, path: Place, what: str) -> None:
        self.count += 1
        name = _written(path)
        if name in self.replaced:  # a key and its value, or keys with dots that make two paths alike
            self.replaced[name] = short(f"{self.replaced[name]}, {what}", 3 * MAX_DESCRIPTION)
        elif len(self.replaced) < MAX_MARKS:
            self.replaced[name] = what
        else:
            self.replaced[MORE] = "<more>"


def _is_mapping(kind: type) -> bool:
    try:
        return issubclass(kind, Mapping)
    except Exception:  # noqa: BLE001 - whatever a foreign metaclass raises: what cannot be asked is none
        return False


def _exact(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the plain tuple of a subclass, without a call of what it overrides."""
    return tuple.__getitem__(value, slice(None))


def _key(key: Any) -> tuple[str, str]:
    """Return a key as text, and the mark of one that text cannot hold; no mark for those that every writer allows."""
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
    """Write a path as `config.extra.limits[1].top`."""
    parts: list[str] = []
    step: Place | None = path
    while step is not None:
        step, place = step
        if isinstance(place, int):
            parts.append(f"[{place}]")
        else:
            parts.append(f".{short(place, MAX_PATH)}" if step is not None else short(place, MAX_PATH))
    return short("".join(reversed(parts)), MAX_PATH)
