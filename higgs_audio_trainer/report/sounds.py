"""WAV files of a run inside the page, as far as there is room."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from markupsafe import Markup

MOST_BYTES = 2_500_000  # of all files together; base64 adds a third
LONGEST_FILE = 1_500_000  # bytes, half a minute
_FOLDER = "audio"
_HEADER = 12


class EmbeddedAudio(NamedTuple):
    """WAV file for the page.

    Attributes:
        link: Path of the file in the log.
        source: `data:` URI of the file. None if the page cannot contain the file.
        problem: Reason why the page cannot contain the file.
    """

    link: str
    source: Markup | None = None
    problem: str = ""


class AudioEmbedder:
    """Makes `data:` URIs of WAV files until the page is full."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def embed(self, folder: Path | None, link: str) -> EmbeddedAudio:
        """Return a file of a run as a `data:` URI, or the reason why the page cannot contain the file.

        Args:
            folder: Output directory of the run. None if the directory is unknown.
            link: Path of the file in the log, relative to the output directory.

        Example:
            >>> AudioEmbedder().embed(Path("run"), "../secret.wav").problem
            "not a file of the run's audio folder"
        """
        path = PurePosixPath(link)
        if folder is None or path.is_absolute() or path.parts[:-1] != (_FOLDER,) or path.name in {"", ".", ".."}:
            return EmbeddedAudio(link, problem="not a file of the run's audio folder")
        try:
            data = self._read(folder / _FOLDER, path.name)
        except (OSError, ValueError) as error:  # a null byte in the name is a ValueError
            return EmbeddedAudio(link, problem=getattr(error, "strerror", None) or str(error))
        source = f"data:audio/wav;base64,{b64encode(data).decode()}"
        return EmbeddedAudio(link, Markup(source))  # noqa: S704 - base64 has no markup

    def _read(self, folder: Path, name: str) -> bytes:
        """Return the bytes of a WAV file.

        Raises:
            OSError: The file cannot be opened, or the file is a symbolic link.
            ValueError: The folder is a symbolic link, the file is not a regular WAV file, or there is no room.
        """
        if folder.is_symlink():  # the operating system's own error for O_NOFOLLOW is "Not a directory"
            raise ValueError("the audio folder is a symbolic link")
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=inside)
        finally:
            os.close(inside)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            if status.st_size > LONGEST_FILE:
                raise ValueError(f"{status.st_size / 1e6:.1f} MB, the limit of a file is {LONGEST_FILE / 1e6} MB")
            if status.st_size > self._left:
                raise ValueError(f"no room left, the limit of a page is {MOST_BYTES / 1e6} MB of audio")
            data = file.read(LONGEST_FILE)
        if len(data) < _HEADER or data[:4] != b"RIFF" or data[8:_HEADER] != b"WAVE":
            raise ValueError("not a WAV file")
        self._left -= len(data)
        return data
