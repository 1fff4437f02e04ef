"""Bytes of a log from a file or standard input, decompressed if necessary."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from higgs_audio_trainer.decompression import MAGIC_BYTES, ZSTD, damaged_errors, decompressed, is_decompressed, joined
from higgs_audio_trainer.decompression import zstd as zstd_module
from higgs_audio_trainer.errors import UserError

STDIN = Path("-")
_CHECKSUM_FLAG = 0b100  # in the first byte of the header of a zstd frame
_OTHER_FILES = 64  # open files of a process besides the files of a log
_BUFFER_BYTES = 2**16


def __getattr__(name: str) -> Any:
    """Return the module for zstd under its name, for writers of compressed logs."""
    if name == "zstd":
        return zstd_module()
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


def has_no_checksum(path: Path) -> bool:
    """Return True if the first zstd frame of a file has no checksum, so that a flipped bit may go unnoticed.

    Gzip always has a checksum. Source: RFC 8878, 3.1.1.1.1, Content_Checksum_flag.

    Example:
        >>> has_no_checksum(Path("no-such-file"))
        False
    """
    try:
        if path == STDIN or not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(MAGIC_BYTES + 1)
    except OSError:  # reported when the lines are read
        return False
    return start[:MAGIC_BYTES] == ZSTD and len(start) > MAGIC_BYTES and not start[MAGIC_BYTES] & _CHECKSUM_FLAG


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
            if not is_decompressed(file):
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
        start = file.read(MAGIC_BYTES) or b""
        if is_seekable:
            file.seek(place)
        else:
            # After the end of a terminal's input, another read would wait for another end.
            rest: Iterator[bytes] = iter(partial(file.read1, _BUFFER_BYTES), b"")
            file = joined(chain((start,), rest if len(start) == MAGIC_BYTES else ()))
        if (plain := decompressed(file, start)) is not None:
            file = plain
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


def unreadable(path: Path, error: OSError) -> UserError:
    """Return an error for an unreadable log, with the operating system's reason."""
    if error.errno == errno.EMFILE:
        return UserError(f"{path}: {error.strerror}: each rank and attempt is a file. Raise the limit: ulimit -n 65536")
    return UserError(f"{path}: {error.strerror or error}. Name a file or a folder of logs.")
