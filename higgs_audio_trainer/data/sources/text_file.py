"""Text files of manifests: read line by line, decompressed if necessary, from a file or a pipe."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import IO, BinaryIO, cast

from higgs_audio_trainer.bounds import (
    MAX_DEVICE_BYTES,
    MAX_ENTRY_BYTES,
    MAX_PIPED_BYTES,
    BoundError,
    way_out,
)
from higgs_audio_trainer.data.file_kind import kind_of_file
from higgs_audio_trainer.decompression import GZIP, MAGIC_BYTES, ZSTD, damaged_errors, decompressed
from higgs_audio_trainer.documents import read_document
from higgs_audio_trainer.errors import UserError

_HEAD = 1_000_000  # bytes that show the kind of a text
_PIECE = 2**20
_START = 8
_BOM = b"\xef\xbb\xbf"


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
                start = raw.peek(MAGIC_BYTES)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        kinds = {GZIP: "gzip", ZSTD: "zstd"}
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
        """Return the whole text, or more of a larger text than `MAX_ENTRY_BYTES`."""
        with self.opened() as file:
            return file.read(MAX_ENTRY_BYTES + 1)

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

        Raises:
            UserError: The file cannot be read, or a line is too long.
        """
        with self.opened() as file:
            for number in count(1):
                line = file.readline(MAX_ENTRY_BYTES + 1)
                if len(line) > MAX_ENTRY_BYTES:
                    raise UserError(
                        f"{self.path}:{number}: expected a line of at most {MAX_ENTRY_BYTES:,} bytes, got a longer "
                        "one. Write one sample a line, and put recordings into files of their own"
                    )
                if not line:
                    return
                yield line

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
        except BoundError as error:
            raise UserError(f"{self.path}: {error}. {way_out()}") from error
        except damaged_errors() as error:
            raise UserError(f"{self.path}: expected whole compressed data: {error}. Copy the file again.") from error
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _raw(self) -> io.BufferedReader:
        if not self._piped and not self.path.is_file() and self.path.exists() and not self.path.is_dir():
            self._piped.append(_content(self.path))
        raw: IO[bytes] = io.BytesIO(self._piped[0]) if self._piped else self.path.open("rb")
        return cast("io.BufferedReader", raw) if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[arg-type]


def _content(path: Path) -> bytes:
    """Return the content of a pipe or a device.

    Raises:
        UserError: The content has no end.
    """
    is_device = stat.S_ISCHR(path.stat().st_mode)  # such as /dev/zero, or a terminal, where nobody types so much
    try:
        return read_document(path, MAX_DEVICE_BYTES if is_device else MAX_PIPED_BYTES)
    except ValueError as error:
        raise UserError(f"{path}: {error}. Name a file.") from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: {error.strerror or error}. Name a manifest (JSON Lines).")


def _plain(raw: io.BufferedReader) -> io.BufferedReader:
    return decompressed(raw, raw.peek(MAGIC_BYTES)[:MAGIC_BYTES], is_manifest=True) or raw
