"""Bytes of a log: a file or standard input, compressed or not."""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from higgs_audio_trainer.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN = Path("-")
# How compressed files begin: RFC 1952; RFC 8878, where a frame that is to be skipped may come first.
_GZIP, _ZSTD, _SKIPPED = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
_MAGIC_BYTES = 4
_BUFFER_BYTES = 2**16
_PIECE_BYTES = 2**8  # of compressed bytes: what a damaged one costs of those before it

#: What reading compressed bytes raises where they are damaged or end too early.
DAMAGED = (zlib.error, zstd.ZstdError, EOFError)


def path_of(given: str | Path) -> Path:
    """Make the path of a log. `-` alone is standard input: `./-`, which is the same to pathlib, is a file.

    Raises:
        UserError: no file can be called so.
    """
    if "\0" in str(given):
        raise UserError(f"{given}: expected the name of a file or folder, got one with a null character in it")
    path = Path(given)
    return path.absolute() if path == STDIN and str(given) != str(STDIN) else path


@contextmanager
def opened(path: Path, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file, or standard input (`-`). Compressed bytes are known by how they begin, whatever the name.

    Args:
        path: of the file.
        offset: where to begin, after decompression; a compressed file is decompressed up to there.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        file = cast("io.BufferedReader", _stdin() if path == STDIN else path.open("rb", _BUFFER_BYTES))
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        yield _plain(file, path, offset)


def end_of(path: Path, size: int) -> bytes:
    """Read the last bytes of a file; of damaged compressed ones, the last before the damage.

    Args:
        path: of the file.
        size: how many, after decompression.

    Raises:
        UserError: it cannot be read.
    """
    with opened(path) as file:
        try:
            if not isinstance(getattr(file, "raw", None), _Parts):
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read(size)
            return _end_of_unseekable(file, size)
        except OSError as error:
            raise unreadable(path, error) from error


def _end_of_unseekable(file: BinaryIO, size: int) -> bytes:
    kept = bytearray()
    while True:
        try:
            part = cast("io.BufferedReader", file).read1(_BUFFER_BYTES)
        except DAMAGED:  # said where the lines are read
            part = b""
        if not part:
            return bytes(kept[-size:])
        kept += part
        if len(kept) > 2 * size:
            del kept[:-size]


def _stdin() -> BinaryIO:
    if sys.stdin is None or sys.stdin.closed:
        raise UserError(f"{STDIN}: expected a log on standard input, which is closed. Name a file or a folder of logs.")
    return sys.stdin.buffer


def _plain(file: io.BufferedReader, path: Path, offset: int) -> BinaryIO:
    try:
        is_seekable = file.seekable()
        place = file.tell() if is_seekable else 0
        start = file.read(_MAGIC_BYTES) or b""
        if is_seekable:
            file.seek(place)
        else:
            # At the end of what a terminal gives, reading again would wait for another end.
            rest: Iterator[bytes] = iter(partial(file.read1, _BUFFER_BYTES), b"")
            file = _joined(chain((start,), rest if len(start) == _MAGIC_BYTES else ()))
        if start.startswith(_GZIP):
            file = _joined(_decompressed(file, partial(zlib.decompressobj, wbits=16 + zlib.MAX_WBITS)))
        elif start == _ZSTD or (start[1:] == _SKIPPED and start[0] >> 4 == 5):  # noqa: PLR2004 - 0x50 to 0x5F
            file = _joined(_decompressed(file, zstd.ZstdDecompressor))
        elif offset:
            file.seek(offset)
            return file
        _skip(file, offset)
    except DAMAGED:  # met again where it is read, and said there
        return file
    except OSError as error:
        raise unreadable(path, error) from error
    return file


def _skip(file: io.BufferedReader, size: int) -> None:
    while size and (part := file.read1(min(size, _BUFFER_BYTES))):
        size -= len(part)


def _pieces(file: io.BufferedReader) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        if len(piece) == _PIECE_BYTES:
            yield piece
        else:  # at the end there is a checksum: if it is wrong, all before it was read
            yield from (bytes((byte,)) for byte in piece)


def _decompressed(file: io.BufferedReader, new: Callable[[], Any]) -> Iterator[bytes]:
    """Yield all that a decompressor gives, before it says that the rest is damaged: a little goes in at a time."""
    decompressor = None
    for piece in _pieces(file):
        rest = piece
        while rest:
            if decompressor is None:
                rest = rest.lstrip(b"\0")  # may stand behind a member of gzip
                if not rest:
                    break
                decompressor = new()
            yield decompressor.decompress(rest)
            rest = b""
            if decompressor.eof:
                rest, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("they end too early")


class _Parts(io.RawIOBase):
    """Parts of bytes, read like a file. What was there before an error is read before it is raised."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(filter(None, self._parts), b""))
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _joined(parts: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Parts(parts), _BUFFER_BYTES)


def unreadable(path: Path, error: OSError) -> UserError:
    """Say that a log cannot be read, and why."""
    return UserError(
        f"{path}: expected a log that can be read, got: {error.strerror or error}. Name a file or a folder of logs."
    )
