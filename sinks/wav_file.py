"""Safe reading of a WAV file that a record names.

A log is untrusted data. A name of a record therefore leads only to a plain file in the run's own folder of sounds, and
never through a symbolic link.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

_FOLDER = "audio"
_HEADER = 12


def read_wav(output_dir: Path | None, link: str, *, longest: int, left: int | None = None) -> bytes:
    """Return the bytes of a WAV file in the folder `audio` of an output directory.

    Args:
        output_dir: Output directory of the run. None if the directory is unknown.
        link: Path of the file in the record, relative to the output directory.
        longest: Largest size of a file; bytes.
        left: Largest size of this file because of files before; bytes. None for no such limit.

    Raises:
        OSError: The file cannot be opened, or the file is a symbolic link.
        ValueError: The file is outside the folder, no regular WAV file, or too large.

    Example:
        >>> read_wav(Path("run"), "../secret.wav", longest=1_000)
        Traceback (most recent call last):
        ...
        ValueError: not a file of the run's audio folder
    """
    path = PurePosixPath(link)
    if output_dir is None or path.is_absolute() or path.parts[:-1] != (_FOLDER,) or path.name in {"", ".", ".."}:
        raise ValueError("not a file of the run's audio folder")
    folder = output_dir / _FOLDER
    if folder.is_symlink():  # the operating system's own error for O_NOFOLLOW is "Not a directory"
        raise ValueError("the audio folder is a symbolic link")
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path.name, flags, dir_fd=inside)
    finally:
        os.close(inside)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > longest:
            raise ValueError(f"{status.st_size / 1e6:.1f} MB, the limit of a file is {longest / 1e6} MB")
        if left is not None and status.st_size > left:
            raise ValueError("no room left")
        data = file.read(longest)
    if len(data) < _HEADER or data[:4] != b"RIFF" or data[8:_HEADER] != b"WAVE":
        raise ValueError("not a WAV file")
    return data
