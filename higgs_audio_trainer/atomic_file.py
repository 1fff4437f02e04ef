"""Files and folders that appear under their name only when complete."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4


@contextmanager
def atomic_file(target: Path, *, mode: int | None = None, sync: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file in the target's folder and rename it to the target when the block ends.

    After an error the temporary file is removed and the target is as it was. A killed process leaves the target as it
    was too, and at most a hidden temporary file beside it.

    Args:
        target: Path of the file. Its folder must exist.
        mode: Permission bits of the file. By default those of the file that is replaced, else 0o666 less the umask.
        sync: Wait until the data and the folder's entry are on the disk.

    Yields:
        The temporary file, opened for writing and reading bytes.

    Raises:
        OSError: The file cannot be written or renamed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     target = Path(folder) / "state.json"
        ...     with atomic_file(target) as file:
        ...         _ = file.write(b"{}")
        ...     [path.name for path in Path(folder).iterdir()], target.read_text()
        (['state.json'], '{}')
    """
    if mode is None and target.exists():
        mode = target.stat().st_mode & 0o7777
    temporary = target.parent / f".{target.name}.{uuid4().hex}"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents.

    Raises:
        NotADirectoryError: The path or a parent is a file. The error names that file.
        OSError: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        raise


def check_writable(folder: Path) -> None:
    """Check that a folder can be written, or can be created. Nothing is created.

    Raises:
        NotADirectoryError: The path or a parent is a file. The error names that file.
        OSError: The folder, or the first parent that exists, cannot be written. The error names that folder.

    Example:
        >>> check_writable(Path("no-such-folder"))
    """
    found = next(path for path in (folder, *folder.parents) if path.exists())
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
    if not os.access(found, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(found))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(made: Path, folder: Path) -> None:
    """Move a complete folder to the place of an older folder."""
    try:
        made.rename(folder)
    except OSError:  # the older one is not empty
        aside = folder.with_name(f".{folder.name}.{uuid4().hex}")
        folder.rename(aside)
        made.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
