"""Decompression of logs and manifests, with bounds of the window and of the ratio of sizes."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from higgs_audio_trainer.bounds import (
    LARGEST_WINDOW_LOG,
    LINES_FLOOR,
    MANIFEST_FLOOR_BYTES,
    MAX_LINES_PER_BYTE,
    MAX_RATIO,
    MAX_WINDOW_LOG,
    RATIO_FLOOR_BYTES,
    BoundError,
    are_in_force,
)

# First bytes of compressed data. Source: RFC 1952 (gzip) and RFC 8878 (zstd, perhaps after a skippable frame).
GZIP, ZSTD, _SKIPPED = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
MAGIC_BYTES = 4
_BUFFER_BYTES = 2**16
_PIECE_BYTES = 2**8  # compressed bytes decompressed at once; damage loses at most the output of one piece


def zstd() -> Any:
    """Import the module for zstd, which data without compression do not need."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module


def damaged_errors() -> tuple[type[Exception], ...]:
    """Return the errors of reading damaged or truncated compressed data, and data beyond a bound.

    Example:
        >>> EOFError in damaged_errors()
        True
    """
    return zlib.error, zstd().ZstdError, EOFError, BoundError


def decompressed(file: io.BufferedReader, start: bytes, *, is_manifest: bool = False) -> io.BufferedReader | None:
    """Return a reader of the decompressed data of a file; None for data without compression.

    Args:
        file: Reader of the compressed data.
        start: First `MAGIC_BYTES` bytes of the data, which identify the format.
        is_manifest: Whether the data are bounded as those of a manifest, and not as those of a log.
    """
    if start.startswith(GZIP):
        new: Callable[[], Any] = partial(zlib.decompressobj, wbits=16 + zlib.MAX_WBITS)
    elif start == ZSTD or (start[1:] == _SKIPPED and start[0] >> 4 == 5):  # noqa: PLR2004 - 0x50 to 0x5F
        window_log = MAX_WINDOW_LOG if are_in_force() else LARGEST_WINDOW_LOG
        new = partial(zstd().ZstdDecompressor, options={zstd().DecompressionParameter.window_log_max: window_log})
    else:
        return None
    return joined(_parts(file, new, _check_manifest if is_manifest else _check_log))


def is_decompressed(file: object) -> bool:
    """Return True for a reader of `joined`, which cannot seek."""
    return isinstance(getattr(file, "raw", None), _Parts)


def joined(parts: Iterator[bytes]) -> io.BufferedReader:
    """Return a reader of byte strings."""
    return io.BufferedReader(_Parts(parts), _BUFFER_BYTES)


def _pieces(file: io.BufferedReader) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        if len(piece) == _PIECE_BYTES:
            yield piece
        else:  # single bytes at the end: a wrong checksum then loses no decompressed data
            yield from (bytes((byte,)) for byte in piece)


def _check_log(taken: int, given: int, _lines: int) -> None:
    _check_ratio(taken, given, RATIO_FLOOR_BYTES)


def _check_manifest(taken: int, given: int, lines: int) -> None:
    _check_ratio(taken, given, MANIFEST_FLOOR_BYTES)
    if lines > max(MAX_LINES_PER_BYTE * taken, LINES_FLOOR):
        expected = f"compressed data of at most {MAX_LINES_PER_BYTE} lines for each byte"
        raise BoundError(expected, f"{lines:,} lines of {taken:,} bytes")


def _check_ratio(taken: int, given: int, floor: int) -> None:
    if given > max(MAX_RATIO * taken, floor):
        raise BoundError(f"compressed data that grow at most {MAX_RATIO}-fold", f"{given:,} bytes of {taken:,} bytes")


def _parts(file: io.BufferedReader, new: Callable[[], Any], check: Callable[[int, int, int], None]) -> Iterator[bytes]:
    """Yield decompressed data, in small pieces to yield all data before damage.

    Args:
        file: Reader of the compressed data.
        new: Makes a decompressor.
        check: Raises a `BoundError` for the numbers of compressed bytes, of decompressed bytes, and of lines.
    """
    decompressor = None
    taken = given = lines = 0
    is_bounded = are_in_force()
    for piece in _pieces(file):
        rest = piece
        taken += len(piece)
        while rest:
            if decompressor is None:
                rest = rest.lstrip(b"\0")  # padding after a gzip member
                if not rest:
                    break
                decompressor = new()
            part = _decompress(decompressor, rest)
            given += len(part)
            lines += part.count(b"\n")
            if is_bounded:
                check(taken, given, lines)
            yield part
            rest = b""
            if decompressor.eof:
                rest, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("data that ends too early")


def _decompress(decompressor: Any, data: bytes) -> bytes:
    try:
        part: bytes = decompressor.decompress(data)
    except damaged_errors() as error:
        if "too much memory" not in str(error):
            raise
        largest = 2 ** (MAX_WINDOW_LOG - 20)
        raise BoundError(f"a window of zstd of at most {largest} MiB", "a larger window") from error
    return part


class _Parts(io.RawIOBase):
    """Byte strings of an iterator as a raw file. Bytes before an error are read before the error is raised."""

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
