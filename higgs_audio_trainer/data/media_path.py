"""Files of a manifest: paths in texts of UTF-8, whatever the encoding of the system."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]+://")


class NoFileError(Exception):
    """A path of a manifest names no file. The message is the observation."""


def find_file(value: str, folder: Path) -> Path:
    """Return the file that a manifest names.

    Args:
        value: Path, relative to the folder, or below `~`, or a URL `file:///...`.
        folder: Folder of the manifest.

    Raises:
        NoFileError: There is no such file.

    Example:
        >>> find_file("no.wav", Path("/"))
        Traceback (most recent call last):
        higgs_audio_trainer.data.media_path.NoFileError: 'no.wav', which does not exist
    """
    name = value
    if _URL.match(value):
        if not value.lower().startswith("file://"):
            raise NoFileError(f"the URL {value!r}. Download the file and give its path")
        name = unquote(urlsplit(value).path)
    paths = [_path(folder, name, encoding) for encoding in dict.fromkeys(("utf-8", sys.getfilesystemencoding()))]
    # Path.is_file() and is_dir() would raise for a name that is too long or in a protected folder.
    for path in paths:
        if path is not None and os.path.isfile(path):  # noqa: PTH113
            return path
    if any(path is not None and os.path.isdir(path) for path in paths):  # noqa: PTH112
        raise NoFileError(f"{value!r}, which is a folder")
    locale = ""
    if len(paths) > 1 and not value.isascii():
        locale = f" in the encoding of the locale, {sys.getfilesystemencoding()}, nor in UTF-8. Set LC_ALL=C.UTF-8"
    raise NoFileError(f"{value!r}, which does not exist{locale}")


def shown_name(path: Path) -> str:
    """Return the name of a file for messages: as in UTF-8, whatever the encoding of the system.

    Example:
        >>> shown_name(Path("wavs/é.wav"))
        'é.wav'
    """
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _path(folder: Path, name: str, encoding: str) -> Path | None:
    """Return the path of a file whose name on the disk has an encoding. None if the encoding has no such letters."""
    try:
        on_disk = os.fsdecode(name.encode(encoding, "strict"))
    except UnicodeEncodeError:
        return None
    path = folder / on_disk
    is_below_home = on_disk.startswith("~") and not os.path.exists(path)  # noqa: PTH110
    return folder / os.path.expanduser(on_disk) if is_below_home else path  # noqa: PTH111 - keeps an unknown user's ~
