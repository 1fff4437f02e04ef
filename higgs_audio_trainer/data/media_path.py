"""Files of a manifest: paths in texts of UTF-8, whatever the encoding of the system."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]+://")
_OTHER_BYTES = re.compile("[\udc80-\udcff]")
_FILE_URL = re.compile("file:/", re.IGNORECASE)
_DRIVE = re.compile(r"[a-zA-Z]:[\\/]")


class NoFileError(Exception):
    """A path of a manifest names no file. The message is the observation."""


def find_file(value: str, folder: Path) -> Path:
    """Return the file that a manifest names.

    Args:
        value: Path, relative to the folder, or below `~`, or a URL `file:///...`. Backslashes may separate folders.
        folder: Folder of the manifest.

    Raises:
        NoFileError: There is no such file.

    Example:
        >>> find_file("no.wav", Path("/"))
        Traceback (most recent call last):
        higgs_audio_trainer.data.media_path.NoFileError: 'no.wav', which does not exist
    """
    name = _name_on_disk(value)
    encodings = dict.fromkeys(("utf-8", sys.getfilesystemencoding()))
    spellings = (name, name.replace("\\", "/")) if "\\" in name else (name,)
    paths = []
    # Path.is_file() and is_dir() would raise for a name that is too long or in a protected folder.
    for spelled in spellings:
        for encoding in encodings:
            path = _path(folder, spelled, encoding)
            if path is not None and os.path.isfile(path):  # noqa: PTH113
                return path
            paths.append(path)
    if any(path is not None and os.path.isdir(path) for path in paths):  # noqa: PTH112
        raise NoFileError(f"{value!r}, which is a folder")
    if _DRIVE.match(name):
        raise NoFileError(f"{value!r}, a path on a Windows drive. Give paths relative to the manifest")
    locale = ""
    if len(encodings) > 1 and not value.isascii():
        locale = f" in the encoding of the locale, {sys.getfilesystemencoding()}, nor in UTF-8. Set LC_ALL=C.UTF-8"
    raise NoFileError(f"{value!r}, which does not exist{locale}")


def shown_name(path: Path) -> str:
    """Return the name of a file for messages: as in UTF-8, whatever the encoding of the system.

    Example:
        >>> shown_name(Path("wavs/é.wav"))
        'é.wav'
    """
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def local_path(value: str) -> str:
    """Return the path of a URL `file:///...`, and any other text as it is.

    Example:
        >>> local_path("file:///data/a%20b.wav"), local_path("file:/data/a.wav"), local_path("a%20b.wav")
        ('/data/a b.wav', '/data/a.wav', 'a%20b.wav')

    Raises:
        ValueError: The text is no URL.
    """
    if not _FILE_URL.match(value):
        return value
    urlsplit(value)  # for its checks; it would cut names with '#' and '?'
    path = unquote(value[len("file:") :])
    if path.startswith("//"):
        host, _, below = path[2:].partition("/")
        path = f"/{below}" if host.lower() in ("", "localhost") else path[2:]  # many write a relative path as a host
    return path[1:] if _DRIVE.match(path[1:]) else path


def _name_on_disk(value: str) -> str:
    """Return the path of a value.

    Raises:
        NoFileError: The value is a URL, or is not in UTF-8.
    """
    if _OTHER_BYTES.search(value):
        shown = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        advice = "Rename the file, perhaps with convmv -f WINDOWS-1252 -t UTF-8 --notest"
        raise NoFileError(f"'{shown}', whose name is not in UTF-8. {advice}")
    try:
        name = local_path(value)
    except ValueError as error:
        raise NoFileError(f"{value!r}, which is no URL ({error})") from error
    if _URL.match(name):
        raise NoFileError(f"the URL {value!r}. Download the file and give its path")
    return name


def _path(folder: Path, name: str, encoding: str) -> Path | None:
    """Return the path of a file whose name on the disk has an encoding. None if the encoding has no such letters."""
    try:
        on_disk = os.fsdecode(name.encode(encoding, "strict"))
    except UnicodeEncodeError:
        return None
    path = folder / on_disk
    is_below_home = on_disk.startswith("~") and not os.path.exists(path)  # noqa: PTH110
    return folder / os.path.expanduser(on_disk) if is_below_home else path  # noqa: PTH111 - keeps an unknown user's ~
