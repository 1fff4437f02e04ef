"""Records that are too long made short enough, with marks of what was cut. Pure: a record in, a record out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import orjson

from sinks.protocol import Record

MARK = "shortened"
#: What tells whose record it is; never cut.
ENVELOPE = ("event", "v", "ts", "run_id", "attempt", "rank", "seq", "level")
# Names of things (a split, a codec, a path) and the fields of a structure, such as a window, are this short; cutting
# them would break the schema and save nothing.
_SHORTEST_TEXT = 64
_SHORTEST_MAPPING = 16
_SCALARS = frozenset({int, float, bool, type(None)})
_SHORT = 1_000
_BYTES_AN_ITEM = 2  # a digit and a comma
_BYTES_A_FIELD = 5  # an empty name in quotes, a colon, a digit and a comma


def encoded(record: Record, max_bytes: int) -> bytes:
    """Encode a record as one line, shortened if need be.

    Args:
        record: builtins.
        max_bytes: how long the line may be, with its newline.

    Raises:
        TypeError: the record holds something that is not a builtin.
    """
    if _is_short(record.values()) or _may_fit(record, max_bytes, _Limits(max_bytes)):
        # Else it is not even encoded: ten million tokens are not copied.
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) <= max_bytes:
            return line
    return orjson.dumps(shortened(record, max_bytes), option=orjson.OPT_APPEND_NEWLINE)


def fits(record: Record, max_bytes: int) -> bool:
    """Tell whether a record need not be shortened.

    Raises:
        TypeError: the record holds something that is not a builtin.
    """
    return _may_fit(record, max_bytes, _Limits(max_bytes)) and len(orjson.dumps(record)) < max_bytes


def shortened(record: Record, max_bytes: int) -> Record:
    """Cut every list, text and mapping of a record to one length, the largest power of two that fits.

    The lists of a window therefore stay equally long. The field `shortened` says what was cut and how long it was:
    `{"first.labels": 10000000}`. The envelope stays, and so do texts up to 64 characters and mappings up to 16 fields.

    Args:
        record: builtins.
        max_bytes: how long the line may be, with its newline.

    Raises:
        TypeError: the record holds something that is not a builtin.
    """
    for power in reversed(range(max_bytes.bit_length())):
        limits = _Limits(1 << power)
        if _may_fit(record, max_bytes, limits):
            short = _cut_record(record, limits)
            if len(orjson.dumps(short)) < max_bytes:
                return short
    return _cut_record(record, _Limits(0, fields=0))


class _Limits:
    """How much of a list, a text and a mapping is kept.

    Args:
        items: of a list.
        fields: of a mapping; as many as of a list if not given, but no structure is broken.
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
        marks |= earlier  # of what is cut again, how long it was at first
    elif earlier is not None and not marks:  # a third party's
        return short | {MARK: earlier}
    return short | {MARK: marks} if marks else short


def _cut(value: Any, limits: _Limits, path: str, marks: dict[str, int]) -> Any:
    """Copy a value with everything in it cut; note in `marks` how long it was."""
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
            if len(key) <= limits.characters  # a field with an endless name is left out
        }
    else:
        return value
    if len(kept) < len(value):
        marks[path] = len(value)
    return kept


def _is_short(values: Iterable[Any]) -> bool:
    """Tell at a glance that no part of a record is long; nearly all records end here."""
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
    """Tell whether a record may fit once it is cut, without copying it or looking at more than could fit."""
    return _left(record, max_bytes, limits) >= 0


def _left(value: Any, left: int, limits: _Limits) -> int:
    """Return how many of `left` bytes remain beside a value at the least, or a negative number."""
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
    for item in inner:  # every record passes here: nothing is called for what is small
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
