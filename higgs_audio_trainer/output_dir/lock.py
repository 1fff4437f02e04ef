"""Lock of an output directory: one run at a time may write to the directory."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from higgs_audio_trainer.errors import UserError

_FILE = "run.lock"
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_HELD = (errno.EACCES, errno.EAGAIN)
_HELD_HERE: set[Path] = set()  # locks of this process: closing another descriptor of the file would release the lock


class DirectoryLock:
    """POSIX record lock on a file in an output directory.

    The kernel releases the lock when the process dies, however the process dies. Forked workers do not hold the lock.
    The lock works on NFS. A file system without locks gives no protection. As with every POSIX record lock, the lock is
    lost if the process opens the file a second time and closes the second descriptor.

    Args:
        folder: Output directory. `acquire` needs an existing directory.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     lock = DirectoryLock(Path(folder))
        ...     lock.acquire()
        ...     lock.release()
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._folder = folder
        self._fd: int | None = None

    def check(self) -> None:
        """Raise an error if another process holds the lock. Write nothing.

        Raises:
            UserError: Another process holds the lock.
        """
        if self._path in _HELD_HERE:
            return
        with suppress(OSError):  # no lock file, or a file without write permission: `acquire` reports the error
            fd = os.open(self._path, _FLAGS)
            try:
                self._lock(fd)
            finally:
                os.close(fd)

    def acquire(self) -> None:
        """Take the lock. Call `release` also after an error.

        Raises:
            UserError: Another process holds the lock.
            OSError: The directory cannot be written.
        """
        fd = os.open(self._path, _FLAGS | os.O_CREAT, 0o600)
        self._fd = fd
        self._lock(fd)
        _HELD_HERE.add(self._path)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                holder = os.pread(fd, 1024, 0).decode("utf-8", "replace").strip()
                raise UserError(
                    f"--output_dir: expected a folder that no other run writes to, got {self._folder}, where a run is "
                    f"in progress ({holder}). Wait for the end of that run, or choose another folder."
                ) from error

    def remove_empty_folder(self) -> None:
        """Remove the folder if the lock is its only file. Call before `release`, while no other run can begin."""
        with suppress(OSError):
            if self._fd is not None and [path.name for path in self._folder.iterdir()] == [_FILE]:
                self._path.unlink()
                self._folder.rmdir()

    def release(self) -> None:
        """Release the lock. Do nothing without a lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            _HELD_HERE.discard(self._path)
