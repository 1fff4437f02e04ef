"""Index of encoded clips, written by many processes at once, with the codes beside the index.

A folder holds two kinds of files. Each process appends to files of its own, so that no process waits for another.

- `index-WRITER.jsonl`: a JSON object a line. The first field is `key`, 32 hexadecimal digits.
- `codes-WRITER-NUMBER.i16`: codes of many clips, int16, little endian, [K, T] in C order, one clip behind another.

A row is complete if its line ends. The codes of a clip are written before its row. The row holds a checksum of the
codes, since after a power failure the row may be on the disk and the codes not.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import orjson

from higgs_audio_trainer.data.preparation.places import Places, numbers_of

Row = dict[str, Any]

_START = b'{"key":"'
_DIGITS = 32
_FAULT, _FAULT_AT = b',"fault"', len(_START) + _DIGITS + 1
_CODES_DTYPE = np.dtype("<i2")
_SHARD_BYTES = 256 * 2**20
_READ_BYTES = 16 * 2**20
_MOST_OPEN = 128  # files of other processes
_FLUSH_S, _FLUSH_ROWS = 0.25, 256  # at most so much work is lost when the process dies
_OFFSET_BITS = 44


class ClipIndex:
    """Rows by key, and codes.

    Rows of other processes are seen after `refresh`. Of two rows with one key, the later that was read is valid.

    Args:
        folder: Folder of the files. Created at the first row.
        writer: Name of this process, unique in the folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> key = "0" * 32
        >>> with TemporaryDirectory() as folder, ClipIndex(Path(folder), "a") as index:
        ...     index.add(key, {"codes": index.add_codes(np.array([[1, 2], [3, 4]]))})
        ...     index.flush()
        ...     index.codes(index.get(key)["codes"]).tolist()
        [[1, 2], [3, 4]]
    """

    def __init__(self, folder: Path, writer: str) -> None:
        self.folder, self._writer = folder, writer
        self._places = Places()  # number of the file, and offset of the row
        self._files: list[str] = []
        self._numbers: dict[str, int] = {}
        self._sizes: dict[str, int] = {}  # bytes that were read
        self._open: dict[str, int] = {}
        self._faults: set[bytes] = set()
        self._added = bytearray()
        self._pending: dict[str, Row] = {}
        self._flushed_at = time.monotonic()
        self._index: BinaryIO | None = None
        self._shard: BinaryIO | None = None
        self._shard_number = 0

    @property
    def num_writers(self) -> int:
        """Number of processes with rows."""
        return len(self._files)

    def __contains__(self, key: str) -> bool:
        return key in self._pending or bytes.fromhex(key) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Row | None:
        """Return the row of a key. None for a missing or damaged row."""
        if key in self._pending:
            return self._pending[key]
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        fd = self._descriptor(self._files[place >> _OFFSET_BITS])
        offset, data = place & ((1 << _OFFSET_BITS) - 1), b""
        while not data.endswith(b"\n"):
            more = os.pread(fd, 2_048, offset + len(data))
            if not more:
                return None  # the file was truncated
            data += more.split(b"\n", 1)[0] + (b"\n" if b"\n" in more else b"")
        try:
            row: Row = orjson.loads(data)
        except ValueError:  # a line that was torn and continued
            return None
        return row

    def refresh(self) -> None:
        """Read the new rows of other processes."""
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".jsonl") and (size := entry.stat().st_size) > self._sizes.get(entry.name, 0):
                    self._read(entry.name, size)

    def drain(self) -> npt.NDArray[np.uint64]:
        """Return the keys of the rows that were read or written since the last call, see `numbers_of`."""
        added, self._added = self._added, bytearray()
        return numbers_of(added)

    def faults(self) -> npt.NDArray[np.uint64]:
        """Return the keys of the clips with a fault, see `numbers_of`."""
        return numbers_of(b"".join(self._faults))

    def forget(self, key: str) -> None:
        """Act as if a row did not exist, until another row of the key is read or added."""
        self._places.remove(bytes.fromhex(key))
        self._faults.discard(bytes.fromhex(key))

    def forget_faults(self) -> None:
        """Forget the clips with a fault, since the reason may be gone."""
        for key in self._faults:
            self._places.remove(key)
        self._faults.clear()

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Add a row. Other processes see the row after `flush`.

        Args:
            key: 32 hexadecimal digits.
            row: Values for JSON.
        """
        self._pending[key] = {"key": key, **row}

    def add_codes(self, codes_KT: npt.NDArray[np.integer]) -> list[Any]:
        """Write codes, integers [K, T], and return their place for a row."""
        data = np.ascontiguousarray(codes_KT, dtype=_CODES_DTYPE).tobytes()
        shard = self._shard
        if shard is None or shard.tell() + len(data) > _SHARD_BYTES:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shard is not None:
                shard.close()
            name = f"codes-{self._writer}-{self._shard_number:04d}.i16"
            shard = self._shard = (self.folder / name).open("xb")
            self._shard_number += 1
        at = shard.tell()
        shard.write(data)
        return [Path(shard.name).name, at, list(codes_KT.shape), zlib.crc32(data)]

    def codes(self, place: list[Any]) -> npt.NDArray[np.int16] | None:
        """Return codes, int16 [K, T]. None for codes that are damaged or gone."""
        name, at, shape, checksum = place
        if self._shard is not None and Path(self._shard.name).name == name:
            self._shard.flush()
        if not re.fullmatch(r"codes-[\w.\-]+\.i16", name):  # a name with a folder would lead elsewhere
            return None
        try:
            data = os.pread(self._descriptor(name), _CODES_DTYPE.itemsize * shape[0] * shape[1], at)
        except OSError:
            return None
        return np.frombuffer(data, dtype=_CODES_DTYPE).reshape(shape) if zlib.crc32(data) == checksum else None

    def is_full(self) -> bool:
        """Return True if the added rows should be written now."""
        return len(self._pending) >= _FLUSH_ROWS or (
            bool(self._pending) and time.monotonic() - self._flushed_at >= _FLUSH_S
        )

    def flush(self) -> None:
        """Write the added rows.

        Raises:
            OSError: The file cannot be written.
        """
        if self._shard is not None:
            self._shard.flush()
        if self._pending:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._index is None:
                self._index = (self.folder / f"index-{self._writer}.jsonl").open("xb", buffering=0)
            name, offset = Path(self._index.name).name, self._index.tell()
            lines = [orjson.dumps(row) + b"\n" for row in self._pending.values()]
            data = memoryview(b"".join(lines))
            while data:
                data = data[self._index.write(data) :]
            for key, line in zip(self._pending, lines, strict=True):
                self._set(key, self._place(name, offset), is_fault=line.startswith(_FAULT, _FAULT_AT))
                offset += len(line)
            self._sizes[name] = offset
            self._pending.clear()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write the added rows and close all files."""
        try:
            self.flush()
        finally:
            for file in (self._index, self._shard):
                if file is not None:
                    file.close()
            self._index = self._shard = None
            self._close_readers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _read(self, name: str, size: int) -> None:
        at = self._sizes.get(name, 0)
        while at < size:
            data = os.pread(self._descriptor(name), min(size - at, _READ_BYTES), at)
            lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
            if not lines:  # the rest of the line comes later, or never from a process that died
                break
            for line in lines:
                key = line[len(_START) : len(_START) + _DIGITS].decode("latin-1")
                if line.startswith(_START) and line.endswith(b"}"):
                    with suppress(ValueError):  # a damaged line
                        self._set(key, self._place(name, at), is_fault=line.startswith(_FAULT, _FAULT_AT))
                at += len(line) + 1
        self._sizes[name] = at

    def _set(self, key: str, place: int, *, is_fault: bool) -> None:
        number = bytes.fromhex(key)
        self._places.set(number, place)
        self._added += number
        if is_fault:
            self._faults.add(number)
        else:
            self._faults.discard(number)

    def _place(self, name: str, offset: int) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._files)
            self._files.append(name)
        return self._numbers[name] << _OFFSET_BITS | offset

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._close_readers()
            self._open[name] = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]

    def _close_readers(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
