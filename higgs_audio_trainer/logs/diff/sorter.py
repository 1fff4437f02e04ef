"""Sorting of records: in memory for few records, in a temporary file for many records."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, BinaryIO

import orjson

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.typed import Record

_CHUNK_BYTES = 2**23  # held in memory before a sorted chunk is written to the file
_BLOCK_BYTES = 2**16  # bytes read at once of each chunk
_BYTES_A_RECORD = 1_500  # memory of a record's key and objects, besides the encoded record
_Key = tuple[Any, ...]
_Item = tuple[_Key, bytes]


class Sorter:
    """Sorts records. Call `close` at the end.

    Args:
        key: Sort key of a record. Records with equal keys are sorted by their bytes.
        chunk_bytes: Bytes held in memory before a sorted chunk is written to the temporary file.

    Example:
        >>> sorter = Sorter(lambda record: (record["step"],))
        >>> for step in (20, 10):
        ...     sorter.add({"step": step}, b'{"step":%d}' % step)
        >>> [encoded for _, encoded in sorter]
        [b'{"step":10}', b'{"step":20}']
    """

    def __init__(self, key: Callable[[Record], _Key], *, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._key = key
        self._chunk_bytes = chunk_bytes
        self._held: list[_Item] = []
        self._held_bytes = 0
        self._file: BinaryIO | None = None
        self._cuts = [0]  # offsets of the chunks in the file

    def add(self, record: Record, encoded: bytes) -> None:
        """Add a record.

        Args:
            record: The record.
            encoded: The record as JSON.

        Raises:
            UserError: The temporary file cannot be written.
        """
        self._held.append((self._key(record), encoded))
        self._held_bytes += len(encoded) + _BYTES_A_RECORD
        if self._held_bytes >= self._chunk_bytes:
            self._spill()

    def __iter__(self) -> Iterator[tuple[_Key, bytes]]:
        """Yield sorted keys and encoded records. Adding records after the start of the iteration is invalid."""
        self._held.sort()
        if self._file is None:
            return iter(self._held)
        chunks = [self._chunk(self._file.fileno(), *bounds) for bounds in pairwise(self._cuts)]
        return heapq.merge(*chunks, self._held)

    def close(self) -> None:
        """Delete the temporary file."""
        self._held = []
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        import tempfile  # slow to import, and unused for a small log

        self._held.sort()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            self._file.writelines(encoded + b"\n" for _, encoded in self._held)
            self._file.flush()
            self._cuts.append(self._file.tell())
        except OSError as error:
            raise no_room(error) from error
        self._held, self._held_bytes = [], 0

    def _chunk(self, descriptor: int, start: int, end: int) -> Iterator[_Item]:
        rest = b""
        while start < end:
            block = os.pread(descriptor, min(_BLOCK_BYTES, end - start), start)
            assert block, "the temporary file was cut"
            start += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield self._key(orjson.loads(line)), line


def no_room(error: OSError) -> UserError:
    """Return an error for an unwritable temporary file, with the operating system's reason."""
    import tempfile

    return UserError(
        f"{tempfile.gettempdir()}: {error.strerror or error}. "
        "Make room there for a temporary file, or name another folder in TMPDIR"
    )
