"""Long records cut to a size, with a note of each cut. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import orjson

from sinks.protocol import Record

MARK = "shortened"
#: Size of a record, as a line of JSON, that is shown to a person. Log files keep longer records.
MOST_SHOWN_BYTES = 64 * 1024
#: Fields that identify a record and are never cut.
ENVELOPE = ("event", "v", "ts", "run_id", "attempt", "rank", "seq", "level")
# Names, such as a split or a codec, and structures, such as a window, are shorter. A cut would break the schema and
# save little.
_SHORTEST_TEXT = 64
_SHORTEST_MAPPING = 16
_SCALARS = frozenset({int, float, bool, type(None)})
_SHORT = 1_000
_BYTES_AN_ITEM = 2  # a digit and a comma
_BYTES_A_FIELD = 5  # an empty name in quotes, a colon, a digit and a comma


def encoded(record: Record, max_bytes: int) -> bytes:
    r"""Return a record as a line of JSON, shortened if the line would be too long.

    Args:
        record: Record of builtins.
        max_bytes: Largest size of the line in bytes, with the newline.

    Raises:
        TypeError: The record holds an object that is not a builtin.

    Example:
        >>> encoded({"event": "x", "ids": list(range(10_000))}, 100)
        b'{"event":"x","ids":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15],"shortened":{"ids":10000}}\n'
    """
    if _is_short(record.values()) or _may_fit(record, max_bytes, _Limits(max_bytes)):
        # A record of ten million tokens is not even encoded.
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) <= max_bytes:
            return line
    return orjson.dumps(shortened(record, max_bytes), option=orjson.OPT_APPEND_NEWLINE)


def limited(record: Record, max_bytes: int) -> Record:
    """Return a record unchanged if its JSON is shorter than a size, or else a shortened copy.

    Args:
        record: Record of builtins.
        max_bytes: Size in bytes.

    Raises:
        TypeError: The record holds an object that is not a builtin.
    """
    if _may_fit(record, max_bytes, _Limits(max_bytes)) and len(orjson.dumps(record)) < max_bytes:
        return record
    return shortened(record, max_bytes)


def shortened(record: Record, max_bytes: int) -> Record:
    """Return a copy with every list, text and mapping cut to the same length, the largest power of two that fits.

    All lists of a window therefore stay equally long. The field `shortened` maps the path of each cut value to the
    original length, as in `{"first.labels": 10000000}`. The envelope, texts up to 64 characters and mappings up to 16
    fields are not cut.

    Args:
        record: Record of builtins.
        max_bytes: Largest size of the line of JSON in bytes, with the newline.

    Raises:
        TypeError: The record holds an object that is not a builtin.

    Example:
        >>> shortened({"event": "x", "first": {"labels": list(range(1_000))}}, 80)
        {'event': 'x', 'first': {'labels': [0, 1, 2, 3]}, 'shortened': {'first.labels': 1000}}
    """
    for power in reversed(range(max_bytes.bit_length())):
        limits = _Limits(1 << power)
        if _may_fit(record, max_bytes, limits):
            short = _cut_record(record, limits)
            if len(orjson.dumps(short)) < max_bytes:
                return short
    return _cut_record(record, _Limits(0, fields=0))


class _Limits:
    """Lengths to which lists, texts and mappings are cut.

    Args:
        items: Items of a list.
        fields: Fields of a mapping. Defaults to `items`, but at least 16, so that structures stay complete.
    """

    def __init__(self, items: int, fields: int | None = None) -> None:
        self.items = items
        self.characters = max(items, _SHORTEST_TEXT)
        self.fields = max(items, _SHORTEST_MAPPING) if fields is None else fields


def _cut_record(record: Record, limits: _Limits) -> Record:
    marks: dict[str, int] = {}
    short = {
        key: value if key in ENVELOPE else _cut(value, limits, key, marks)
        for key, value in record.items()
        if key != MARK
    }
    earlier = record.get(MARK)
    if isinstance(earlier, dict):
        marks |= earlier  # keep the first length of a value that is cut twice
    elif earlier is not None and not marks:  # a third-party field of the same name
        return short | {MARK: earlier}
    return short | {MARK: marks} if marks else short


def _cut(value: Any, limits: _Limits, path: str, marks: dict[str, int]) -> Any:
    """Return a copy of a value with every part cut. Add the length of each cut value to `marks`."""
    if isinstance(value, str):
        kept: Any = value[: limits.characters]
    elif isinstance(value, (list, tuple)):
        kept = [
            item if type(item) in _SCALARS else _cut(item, limits, f"{path}[{index}]", marks)
            for index, item in enumerate(value[: limits.items])
        ]
    elif isinstance(value, dict):
        kept = {
            key: _cut(item, limits, f"{path}.{key}", marks)
            for key, item in islice(value.items(), limits.fields)
            if len(key) <= limits.characters  # a field with a very long name is left out
        }
    else:
        return value
    if len(kept) < len(value):
        marks[path] = len(value)
    return kept


def _is_short(values: Iterable[Any]) -> bool:
    """Return True if every part of a record is obviously short. This quick test is enough for nearly all records."""
    for item in values:
        kind = type(item)
        if kind in _SCALARS:
            continue
        if kind is tuple:
            if len(item) > _SHORT or (item and type(item[0]) not in _SCALARS):
                return False
        elif kind is dict:
            if len(item) > _SHORT or not _is_short(item.values()):
                return False
        elif kind is not str or len(item) > _SHORT:
            return False
    return True


def _may_fit(record: Record, max_bytes: int, limits: _Limits) -> bool:
    """Return False if a record is too long even after the cut. Neither copies the record nor reads more than fits."""
    return _left(record, max_bytes, limits) >= 0


def _left(value: Any, left: int, limits: _Limits) -> int:
    """Return an upper bound of the bytes that remain of `left` after a value, negative if the value does not fit."""
    inner: Iterable[Any]
    if isinstance(value, (list, tuple)):
        inner = items = value if len(value) <= limits.items else value[: limits.items]
        left -= _BYTES_AN_ITEM * len(items)
        if left < 0 or _SCALARS.issuperset(map(type, items)):
            return left
    elif isinstance(value, dict):
        left -= _BYTES_A_FIELD * min(len(value), limits.fields)
        inner = value.values() if len(value) <= limits.fields else islice(value.values(), limits.fields)
    else:
        return left - min(len(value), limits.characters) if isinstance(value, str) else left
    most = limits.items
    for item in inner:  # a hot loop, so small values cost no call
        if left < 0:
            break
        kind = type(item)
        if kind is str:
            left -= min(len(item), limits.characters) if len(item) > _SHORTEST_TEXT else len(item)
        elif kind is tuple and len(item) <= most and _SCALARS.issuperset(map(type, item)):
            left -= _BYTES_AN_ITEM * len(item)
        elif kind not in _SCALARS:
            left = _left(item, left, limits)
    return left
