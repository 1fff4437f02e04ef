"""Bytes of a log from a file or standard input, decompressed if necessary."""

from __future__ import annotations

import errno
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from higgs_audio_trainer.errors import UserError

STDIN = Path("-")
# First bytes of compressed files. Source: RFC 1952 (gzip) and RFC 8878 (zstd, perhaps after a skippable frame).
_GZIP, _ZSTD, _SKIPPED = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
_MAGIC_BYTES = 4
_OTHER_FILES = 64  # open files of a process besides the files of a log
_BUFFER_BYTES = 2**16
_PIECE_BYTES = 2**8  # compressed bytes decompressed at once; damage loses at most the output of one piece


def damaged_errors() -> tuple[type[Exception], ...]:
    """Return the errors of reading damaged or truncated compressed data.

    Example:
        >>> EOFError in damaged_errors()
        True
    """
    return zlib.error, _zstd().ZstdError, EOFError


def _zstd() -> Any:
    """Import the module for zstd, which a log without compression does not need."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def __getattr__(name: str) -> Any:
    """Return the module for zstd under its name, for writers of compressed logs."""
    if name == "zstd":
        return _zstd()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def path_of(given: str | Path) -> Path:
    """Return the path of a log. `-` means standard input.

    `./-` means a file named `-`. pathlib removes the difference, so the path of this file is made absolute.

    Raises:
        UserError: The path contains a null character.

    Example:
        >>> path_of("-") == STDIN, path_of("./-") == STDIN, path_of("run.jsonl")
        (True, False, PosixPath('run.jsonl'))
    """
    if "\0" in str(given):
        raise UserError(f"{given}: expected the name of a file or folder, got one with a null character in it")
    path = Path(given)
    return path.absolute() if path == STDIN and str(given) != str(STDIN) else path


def allow_open_files(number: int) -> None:
    """Raise the soft limit of open files, as far as the hard limit permits, for a reader of many files at once."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = number + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextmanager
def opened(path: Path, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file or standard input (`-`). The first bytes, not the name, identify compressed data.

    Args:
        path: Path of the file.
        offset: Offset of the first byte to read, after decompression. Compressed data before the offset is decompressed
            and dropped.

    Raises:
        UserError: The file cannot be opened.
    """
    try:
        file = cast("io.BufferedReader", _stdin() if path == STDIN else path.open("rb", _BUFFER_BYTES))
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        yield _plain(file, path, offset)


def end_of(path: Path, size: int) -> bytes:
    """Read the last bytes of a file. For damaged compressed data, read the last bytes before the damage.

    Args:
        path: Path of the file.
        size: Number of bytes, after decompression.

    Raises:
        UserError: The file cannot be read.
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
        except damaged_errors():  # reported when the lines are read
            part = b""
        if not part:
            return bytes(kept[-size:])
        kept += part
        if len(kept) > 2 * size:
            del kept[:-size]


def _stdin() -> BinaryIO:
    if sys.stdin is None or sys.stdin.closed:
        raise UserError(
            f"{STDIN}: expected a log on standard input, got a closed standard input. Name a file or a folder of logs."
        )
    return sys.stdin.buffer


def _plain(file: io.BufferedReader, path: Path, offset: int) -> BinaryIO:
    try:
        is_seekable = file.seekable()
        place = file.tell() if is_seekable else 0
        start = file.read(_MAGIC_BYTES) or b""
        if is_seekable:
            file.seek(place)
        else:
            # After the end of a terminal's input, another read would wait for another end.
            rest: Iterator[bytes] = iter(partial(file.read1, _BUFFER_BYTES), b"")
            file = _joined(chain((start,), rest if len(start) == _MAGIC_BYTES else ()))
        if start.startswith(_GZIP):
            file = _joined(_decompressed(file, partial(zlib.decompressobj, wbits=16 + zlib.MAX_WBITS)))
        elif start == _ZSTD or (start[1:] == _SKIPPED and start[0] >> 4 == 5):  # noqa: PLR2004 - 0x50 to 0x5F
            file = _joined(_decompressed(file, _zstd().ZstdDecompressor))
        elif offset:
            file.seek(offset)
            return file
        _skip(file, offset)
    except damaged_errors():  # raised again when the lines are read, and reported there
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
        else:  # single bytes at the end: a wrong checksum then loses no decompressed data
            yield from (bytes((byte,)) for byte in piece)


def _decompressed(file: io.BufferedReader, new: Callable[[], Any]) -> Iterator[bytes]:
    """Yield decompressed data, in small pieces to yield all data before damage."""
    decompressor = None
    for piece in _pieces(file):
        rest = piece
        while rest:
            if decompressor is None:
                rest = rest.lstrip(b"\0")  # padding after a gzip member
                if not rest:
                    break
                decompressor = new()
            yield decompressor.decompress(rest)
            rest = b""
            if decompressor.eof:
                rest, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("data that ends too early")


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


def _joined(parts: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Parts(parts), _BUFFER_BYTES)


def unreadable(path: Path, error: OSError) -> UserError:
    """Return an error for an unreadable log, with the operating system's reason."""
    if error.errno == errno.EMFILE:
        return UserError(f"{path}: {error.strerror}: each rank and attempt is a file. Raise the limit: ulimit -n 65536")
    return UserError(f"{path}: {error.strerror or error}. Name a file or a folder of logs.")
