"""Bytes of a log: a file or standard input, compressed or not."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from higgs_audio_trainer.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN = Path("-")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # how such files begin: RFC 1952, RFC 8878
_BUFFER_BYTES = 2**18

#: What reading compressed bytes raises where they are damaged or end too early.
DAMAGED = (gzip.BadGzipFile, zlib.error, zstd.ZstdError, EOFError)


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
        file = cast("io.BufferedReader", sys.stdin.buffer if path == STDIN else path.open("rb", _BUFFER_BYTES))
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        yield _decompressed(file, path, offset)


def _decompressed(file: io.BufferedReader, path: Path, offset: int) -> BinaryIO:
    try:
        start = file.peek(len(_ZSTD))
        if start.startswith(_GZIP):
            file = io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER_BYTES)
        elif start.startswith(_ZSTD):
            file = io.BufferedReader(zstd.ZstdFile(file), _BUFFER_BYTES)
        if offset:
            file.seek(offset)
    except DAMAGED:  # met again where it is read, and said there
        return file
    except OSError as error:
        raise unreadable(path, error) from error
    return file


def unreadable(path: Path, error: OSError) -> UserError:
    """Say that a log cannot be read, and why."""
    return UserError(
        f"{path}: expected a log that can be read, got: {error.strerror or error}. Name a file or a folder of logs."
    )
