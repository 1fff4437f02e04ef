"""Conversion of JSON objects to dataclasses, with the path, the expected and the actual value of an invalid field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

_Record = dict[str, Any]
MISSING = ("this field", "none")  # `expected` and `got` of a missing field
_LONGEST_VALUE = 80  # characters of a value in a message
_EXPECTED = re.compile(r"Expected (?P<expected>.*?)(?:, got (?P<got>.*?))?(?: - at `(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `(?P<path>.*)`)?", re.DOTALL)
_SOME_KEY = "[...]"  # msgspec's name for any key of a mapping
_NAMES = {str: "str", int: "int", float: "float", bool: "bool", NoneType: "null", list: "array", dict: "object"}
_PLACE = re.compile(r"[^.\[\]$]+|\[\d+\]")


class InvalidField(NamedTuple):
    """A problem in a field of a line, without the place of the line.

    Attributes:
        field: Path of the field, such as `$.first.labels[3]`; `$` is the line.
        expected: Description of the expected value.
        got: The value or its type.
    """

    field: str
    expected: str
    got: str


def convert(record: _Record, cls: Any) -> Any:
    """Return an instance of a dataclass or a msgspec struct with the record's values, or an `InvalidField`.

    Example:
        >>> from higgs_audio_trainer.events import Window
        >>> convert({"positions": [10, "x"], "inputs": [], "labels": [], "predictions": []}, Window)
        InvalidField(field='$.positions[1]', expected='int', got='str')
    """
    import msgspec  # slow to import; a comparison of small logs does not convert

    try:
        return msgspec.convert(record, cls)
    except msgspec.ValidationError as error:
        return _invalid_field_of(str(error), record, cls)


def _invalid_field_of(message: str, record: _Record, cls: Any) -> InvalidField:
    """Convert a message of msgspec to an `InvalidField`."""
    if missing := _MISSING.fullmatch(message):
        return InvalidField(f"{missing['path'] or '$'}.{missing['name']}", *MISSING)
    path = message.rpartition(" - at `")[2].removesuffix("`")
    if path.endswith(_SOME_KEY):
        path = _with_key(path, message, record)
    if wrong := _EXPECTED.fullmatch(message):
        expected = wrong["expected"].replace("`", "")
        return InvalidField(
            path, expected, wrong["got"].strip("`") if wrong["got"] else _shown(_value_at(record, path))
        )
    choices = _choices(cls).get(path.removeprefix("$."))
    expected = " or ".join(choices) if choices else "another value"
    return InvalidField(path, expected, _shown(_value_at(record, path)))


def _value_at(record: Any, path: str) -> Any:
    for step in _PLACE.findall(path.removeprefix("$")):
        try:
            record = record[int(step[1:-1])] if step.startswith("[") else record[step]
        except (KeyError, IndexError, TypeError):
            return None
    return record


def _with_key(path: str, message: str, record: _Record) -> str:
    """Replace `[...]` in msgspec's path by the key of the first value with the type in the message."""
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


@cache
def _choices(cls: Any) -> Mapping[str, tuple[str, ...]]:
    hints = get_type_hints(cls)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
