"""Places of rows by key, 24 bytes a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LEAST_RECENT = 20_000
_GONE = -1


class Places:
    """Numbers by keys of 16 bytes: arrays in the order of the keys, and a dictionary of what was set lately.

    Example:
        >>> places = Places()
        >>> places.set(bytes(16), 7)
        >>> places.get(bytes(16)), bytes(15) + b"a" in places, len(places)
        (7, False, 1)
    """

    def __init__(self) -> None:
        self._high, self._low = np.empty((2, 0), dtype=np.uint64)  # halves of the keys
        self._numbers = np.empty(0, dtype=np.int64)
        self._recent: dict[bytes, int] = {}

    def __len__(self) -> int:
        self._merge()
        return len(self._numbers)

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def get(self, key: bytes) -> int | None:
        """Return the number of a key, or None."""
        number = self._recent.get(key)
        if number is None:
            number = self._find(key)
        return None if number == _GONE else number

    def set(self, key: bytes, number: int) -> None:
        """Set the number of a key; 0 or more."""
        self._recent[key] = number
        if len(self._recent) > max(_LEAST_RECENT, len(self._numbers) // 8):
            self._merge()

    def remove(self, key: bytes) -> None:
        """Remove a key, if present."""
        self.set(key, _GONE)

    def _find(self, key: bytes) -> int:
        high, low = numbers_of(key)[0]
        at = int(np.searchsorted(self._high, high))
        while at < len(self._high) and self._high[at] == high:
            if self._low[at] == low:
                return int(self._numbers[at])
            at += 1
        return _GONE

    def _merge(self) -> None:
        if not self._recent:
            return
        keys = numbers_of(b"".join(self._recent))
        high, low = np.append(self._high, keys[:, 0]), np.append(self._low, keys[:, 1])
        numbers = np.append(self._numbers, np.fromiter(self._recent.values(), dtype=np.int64))
        self._recent.clear()
        order = np.lexsort((low, high))  # stable: of equal keys the latest comes last
        high, low, numbers = high[order], low[order], numbers[order]
        is_last = np.append((high[1:] != high[:-1]) | (low[1:] != low[:-1]), [True])
        kept = is_last & (numbers != _GONE)
        self._high, self._low, self._numbers = high[kept], low[kept], numbers[kept]


def numbers_of(keys: bytes | bytearray) -> npt.NDArray[np.uint64]:
    """Return keys of 16 bytes, one behind another, as two numbers each, uint64 [N, 2]. Numbers sort as the bytes do."""
    return np.frombuffer(bytes(keys), dtype=">u8").astype(np.uint64).reshape(-1, 2)
