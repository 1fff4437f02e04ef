"""Members that a JSON object names twice, which a reader cannot see."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import orjson

from higgs_audio_trainer.logs.typed import Record


def repeated_member(raw: bytes, record: Record) -> str | None:
    """Name a member that a JSON object has twice; a reader sees one of them alone.

    Args:
        raw: a line.
        record: what is read from it.
    """
    if _is_written_as_read(raw, record):  # as nearly every line; the rest takes ten times longer
        return None
    found: list[str] = []

    def pairs(members: list[tuple[str, Any]]) -> None:
        names = {name for name, _ in members}
        if not found and len(names) < len(members):
            found.append(next(name for name, count in Counter(name for name, _ in members).items() if count > 1))

    try:
        json.loads(raw, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except RecursionError:
        return "a member nested too deep to be looked at"
    return found[0] if found else None


def _is_written_as_read(raw: bytes, record: Record) -> bool:
    try:
        return orjson.dumps(record) == raw.rstrip()
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return False
