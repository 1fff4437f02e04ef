"""Text files of manifests: read line by line, decompressed if necessary, from a file or a pipe."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from higgs_audio_trainer.data.file_kind import kind_of_file
from higgs_audio_trainer.errors import UserError

_HEAD = 1_000_000  # bytes that show the kind of a text
_PIECE = 2**20
_START = 8
# First bytes of compressed files. Source: RFC 1952 (gzip) and RFC 8878 (zstd).
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"


def zstd() -> Any:
    """Import the module for zstd. Few manifests need the module."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module


@dataclass(frozen=True)
class TextFile:
    """A text in UTF-8.

    Attributes:
        path: The file. The first bytes, not the name, identify compressed data.
    """

    path: Path
    _piped: list[bytes] = field(default_factory=list, repr=False)  # content of a pipe, which can be read once

    @cached_property
    def folder(self) -> Path:
        """Folder of relative paths: the folder of the file, or the working folder for standard input and a pipe."""
        return Path.cwd() if self.path.is_relative_to("/dev") or self.path.is_relative_to("/proc") else self.path.parent

    @cached_property
    def compression(self) -> str:
        """Kind of the compression, in words after the form of the text. Empty for plain text."""
        try:
            with self._raw() as raw:
                start = raw.peek(len(_ZSTD))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        kinds = {_GZIP: "gzip", _ZSTD: "zstd"}
        return next((f", compressed with {kind}" for magic, kind in kinds.items() if start.startswith(magic)), "")

    @cached_property
    def start(self) -> bytes:
        """First bytes of the text."""
        with self.opened() as file:
            return file.read(_START)

    @cached_property
    def head(self) -> bytes:
        """First bytes of the text, without a byte order mark.

        Raises:
            UserError: The file cannot be read, or holds no text in UTF-8.
        """
        with self.opened() as file:
            head = file.read(_HEAD)
        if kind := kind_of_file(head, self.path.name):
            raise UserError(f"{self.path}: expected a manifest in JSON Lines, got {kind}")
        return head

    def head_lines(self) -> list[bytes]:
        """Return the first complete lines with text."""
        lines = self.head.split(b"\n")
        is_cut = len(self.head) == _HEAD and len(lines) > 1
        return [line for line in (lines[:-1] if is_cut else lines) if line.strip()]

    def whole(self) -> bytes:
        """Return the whole text."""
        with self.opened() as file:
            return file.read()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file's place and content."""
        place = self.path.absolute() if self.folder == self.path.parent else self.folder
        digest = blake2b(str(place).encode("utf-8", "surrogateescape"), digest_size=16)
        with self.opened() as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        return digest.hexdigest()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines.

        Only the newline ends a line. A text may contain U+2028, at which `str.splitlines` would split.
        """
        with self.opened() as file:
            yield from file

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the text, after a byte order mark.

        Raises:
            UserError: The file cannot be read, or its compressed data are damaged.
        """
        try:
            with self._raw() as raw:
                file = _plain(raw)
                if file.peek(len(_BOM))[: len(_BOM)] == _BOM:
                    file.read(len(_BOM))
                yield cast("BinaryIO", file)
        except _damaged() as error:
            raise UserError(f"{self.path}: expected whole compressed data: {error}. Copy the file again.") from error
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _raw(self) -> io.BufferedReader:
        if not self._piped and not self.path.is_file() and self.path.exists() and not self.path.is_dir():
            self._piped.append(self.path.read_bytes())
        raw: IO[bytes] = io.BytesIO(self._piped[0]) if self._piped else self.path.open("rb")
        return cast("io.BufferedReader", raw) if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[arg-type]


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: {error.strerror or error}. Name a manifest (JSON Lines).")


def _damaged() -> tuple[type[Exception], ...]:
    """Return the errors of reading damaged or truncated compressed data."""
    return gzip.BadGzipFile, EOFError, zlib.error, zstd().ZstdError


def _plain(raw: io.BufferedReader) -> io.BufferedReader:
    start = raw.peek(len(_ZSTD))
    if start.startswith(_GZIP):
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=raw)))
    if start.startswith(_ZSTD):
        return io.BufferedReader(zstd().ZstdFile(raw))
    return raw
