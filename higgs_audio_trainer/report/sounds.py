"""The sound of followed samples: WAV files of the run, put into the page as far as there is room."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from pathlib import Path, PurePosixPath

from higgs_audio_trainer.report.markup import Markup, tag, text

MOST_BYTES = 2_500_000  # of all files together; a third more once they are in the page
LONGEST_FILE = 1_500_000  # bytes: half a minute
_FOLDER = "audio"
_HEADER = 12


class Sounds:
    """Players of WAV files; when there is no more room, it is said where the files are."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def player(self, folder: Path | None, link: str, name: str) -> Markup:
        """Make a player.

        Args:
            folder: the run's; None where it is not known.
            link: path of the file as the log has it, relative to that folder.
            name: of the sound, for who cannot see where it stands.
        """
        path = PurePosixPath(link)
        if folder is None or path.is_absolute() or path.parts[:-1] != (_FOLDER,) or path.name in {"", ".", ".."}:
            return _left_out(link, "it is not among the run's files")
        try:
            sound = self._read(folder / _FOLDER, path.name)
        except (OSError, ValueError) as error:  # a NUL in its name is a ValueError
            return _left_out(link, getattr(error, "strerror", None) or str(error))
        source = Markup(f"data:audio/wav;base64,{b64encode(sound).decode()}")
        return tag("audio", "", controls=True, preload="none", src=source, aria_label=text(name))

    def _read(self, folder: Path, name: str) -> bytes:
        """Read a file that is what it should be, in a folder that is one.

        Raises:
            OSError: it cannot be opened, or it or its folder is a symbolic link.
            ValueError: it is something else, or there is no room.
        """
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=inside)
        finally:
            os.close(inside)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no file")
            if status.st_size > LONGEST_FILE:
                raise ValueError(f"it has {status.st_size / 1e6:.1f} MB")
            if status.st_size > self._left:
                raise ValueError("the page is full")
            sound = file.read(LONGEST_FILE)
        if len(sound) < _HEADER or sound[:4] != b"RIFF" or sound[8:_HEADER] != b"WAVE":
            raise ValueError("it is no WAV file")
        self._left -= len(sound)
        return sound


def _left_out(link: str, why: str) -> Markup:
    return tag("span", tag("code", text(link, longest=200)), f" is not in this page: {why}", class_="note")
