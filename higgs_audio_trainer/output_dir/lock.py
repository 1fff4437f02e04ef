"""A folder that one run at a time may write to."""

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
_HELD_HERE: set[Path] = set()  # by this process, which would lose a lock by looking whether there is one


class DirectoryLock:
    """Says of a folder that a run is writing to it, as long as the process lives, however it ends.

    It is a POSIX record lock on a file in the folder: the kernel lifts it when the process dies, the workers that it
    forked do not hold it any longer, and it works on NFS. Where a file system has no locks, there is none; and as such
    locks are, it is gone too when the process that holds it opens the file elsewhere and closes it.

    Args:
        folder: the folder; it must be there when the lock is acquired.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._folder = folder
        self._fd: int | None = None

    def check(self) -> None:
        """See that nobody holds the lock. Writes nothing.

        Raises:
            UserError: somebody does.
        """
        if self._path in _HELD_HERE:
            return
        with suppress(OSError):  # no such file, or none that we may write: who begins a run here is told so then
            fd = os.open(self._path, _FLAGS)
            try:
                self._lock(fd)
            finally:
                os.close(fd)

    def acquire(self) -> None:
        """Take the lock; to be released also if this fails.

        Raises:
            UserError: somebody holds it.
            OSError: the folder cannot be written.
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
                    f"in progress ({holder}). Wait for its end, or choose another folder."
                ) from error

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            _HELD_HERE.discard(self._path)
