"""Sizes as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_SIZE = re.compile(r"([0-9]{1,15})([KMG]?)")


def bytes_of(text: str) -> int | None:
    """Return how many bytes `4096`, `500K`, `100M` or `2G` are, None where it is no such text."""
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None
