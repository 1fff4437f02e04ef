"""Repeated member names of a JSON object, which JSON parsers hide."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import orjson

from higgs_audio_trainer.logs.typed import Record


def repeated_member(raw: bytes, record: Record) -> str | None:
    """Return the first repeated member name of a line's JSON objects; None without a repetition.

    Args:
        raw: Bytes of the line.
        record: Parsed JSON object of the line.

    Example:
        >>> repeated_member(b'{"step": 1, "step": 2}', {"step": 2})
        'step'
    """
    if _is_written_as_read(raw, record):  # true of nearly every line, and ten times faster than the rest
        return None
    found: list[str] = []

    def pairs(members: list[tuple[str, Any]]) -> None:
        names = {name for name, _ in members}
        if not found and len(names) < len(members):
            found.append(next(name for name, count in Counter(name for name, _ in members).items() if count > 1))

    try:
        json.loads(raw, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except RecursionError:
        return "a member nested too deep to check"
    return found[0] if found else None


def _is_written_as_read(raw: bytes, record: Record) -> bool:
    try:
        return orjson.dumps(record) == raw.rstrip()
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        return False
