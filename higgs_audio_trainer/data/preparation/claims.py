"""Claims of work by processes with a folder in common, on any number of machines and without a server."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Self
from uuid import uuid4

_ALIVE = ".alive"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Claims:
    """Claims of this process in a folder.

    A claim is a symbolic link whose target is the name of the process. Each process holds a lock on a file of its name
    for its lifetime. The kernel releases the lock when the process dies, so the claims of a dead process are taken over
    at once. On a file system whose locks are not seen by other machines, work may be done twice. On a file system
    without locks, only claims of dead processes of this machine are taken over.

    Args:
        folder: Folder of the claims. Created at the first claim.

    Attributes:
        name: Name of the process, unique in the folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, Claims(Path(folder)) as ours, Claims(Path(folder)) as theirs:
        ...     ours.take("a"), theirs.take("a"), theirs.take("b")
        (True, False, True)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._fd: int | None = None
        self._held: set[str] = set()
        self._numbers = count()

    def take(self, key: str) -> bool:
        """Claim some work. Take over the claim of a dead process.

        Args:
            key: Name of the work, a valid file name.

        Returns:
            False if a living process, such as this one, has the claim.

        Raises:
            OSError: The folder cannot be written.
        """
        self._begin()
        path = self._path(key)
        while True:
            try:
                os.symlink(self.name, path)  # noqa: PTH211 - see _path
            except FileExistsError:
                try:
                    owner = os.readlink(path)  # noqa: PTH115 - a name, not a path
                except FileNotFoundError:  # released just now
                    continue
                if owner == self.name:  # held, or put back by a process that took the claim for a dead one's
                    is_held = key in self._held
                    self._held.add(key)
                    return not is_held
                if self._lives(owner):
                    return False
                self._remove(Path(path), owner)
            else:
                self._held.add(key)
                return True

    def release(self, keys: Iterable[str]) -> None:
        """Give claims back after the work is done, or for other processes to do."""
        for key in keys:
            with suppress(FileNotFoundError):
                os.unlink(self._path(key))  # noqa: PTH108 - see _path
            self._held.discard(key)

    def close(self) -> None:
        """Give all claims back."""
        self.release(list(self._held))
        if self._fd is not None:
            (self._folder / f"{self.name}{_ALIVE}").unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}"  # each clip has a claim, and pathlib takes longer than the link

    def _begin(self) -> None:
        if self._fd is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        hidden = self._folder / f".{self.name}"  # no process must see the file before the lock
        fd = os.open(hidden, _FLAGS, 0o666)
        with suppress(OSError):  # a file system without locks: `_lives` looks at the process
            fcntl.flock(fd, fcntl.LOCK_EX)
        hidden.rename(self._folder / f"{self.name}{_ALIVE}")
        self._fd = fd

    def _lives(self, owner: str) -> bool:
        alive = self._folder / f"{owner}{_ALIVE}"
        try:
            is_ours = os.access(alive, os.W_OK)  # or the file of another user, which a lock may read
            fd = os.open(alive, (os.O_RDWR if is_ours else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            if not _died_here(owner):
                return True
        finally:
            os.close(fd)
        alive.unlink(missing_ok=True)
        return False

    def _remove(self, path: Path, owner: str) -> None:
        """Remove the claim of a dead process, but not the claim of a process that was faster."""
        aside = self._folder / f".{self.name}-{next(self._numbers)}"
        with suppress(FileNotFoundError):
            path.rename(aside)
            faster = os.readlink(aside)  # noqa: PTH115 - a name, not a path
            if faster != owner:
                with suppress(FileExistsError):
                    path.symlink_to(faster)
            aside.unlink()


def _died_here(owner: str) -> bool:
    """Return True for a dead process of this machine."""
    host, number, _ = owner.rsplit("-", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(number), 0)
    except OSError as error:  # or it is a living process of another user
        return isinstance(error, ProcessLookupError)
    return False
