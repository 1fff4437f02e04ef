"""The files of one log: their names, and the system calls on the one that is open.

They are made here, by `os` and nothing else, so that tests can put a model file system in its place.
"""
# ruff: noqa: PTH103, PTH108, PTH208

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

# Readable, so that its last byte can be looked at. Appending keeps lines whole beside another writer; a symlink is
# never followed; a child program inherits nothing; a FIFO that takes a file's place cannot hang the run.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MODE = 0o600  # transcripts are nobody else's business
_OTHERS = 0o077
_FIRST_DESCRIPTOR = 3  # below are the standard streams, also where they are closed: what is printed must not land here
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})  # file systems that keep names without being asked
_NEWLINE = b"\n"
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class Segment:
    """One open file, to whose end whole lines are appended. Nothing in it is ever cut off or written over.

    Attributes:
        path: where it was opened.
        size: bytes in it, when last looked at and written to.
        spoiled: a sync of it failed. The system may have dropped what it could not write, so another sync would lie.

    Args:
        path: the file.
        create: make it, and fail where something is there already; otherwise go on in the file that is there.
        unsynced: folders whose list of names changed and is not on the disk yet; those that are synced are taken out.

    Raises:
        OSError: it cannot be opened; with EINVAL and its kind as the text, it is no regular file.
    """

    def __init__(self, path: Path, *, create: bool, unsynced: list[Path] | None = None) -> None:
        self.path = path
        self._name = os.fspath(path)  # it is looked at before each write
        self.spoiled = False
        self._unsynced = [] if unsynced is None else unsynced
        if not create:
            _require_file(os.lstat(path), path)
        self._fd = _above_standard_streams(os.open(path, _FLAGS | (os.O_CREAT | os.O_EXCL) * create, _MODE))
        try:
            status = os.fstat(self._fd)
            _require_file(status, path)
            if status.st_mode & _OTHERS:  # it was there before, for others to read
                os.fchmod(self._fd, _MODE)
            self._identity = (status.st_dev, status.st_ino)
            self.size = status.st_size
            self._is_torn = self._ends_torn()
        except BaseException:
            os.close(self._fd)
            raise

    def _ends_torn(self) -> bool:
        return self.size > 0 and os.pread(self._fd, 1, self.size - 1) != _NEWLINE

    def look(self) -> str | None:
        """Look whether the file is still open and at its path; return what became of it, or None."""
        if not self._is_ours():
            return "was closed by other code"
        try:
            status = os.lstat(self._name)
        except OSError as error:
            # For any other reason it can't be told; the write will show.
            return "was deleted or renamed" if error.errno in _GONE else None
        if (status.st_dev, status.st_ino) != self._identity:
            return "was replaced"
        if status.st_size != self.size:  # somebody else's hand, or a write that a signal broke off
            self.size = status.st_size
            self._is_torn = self._ends_torn()
        return None

    def write(self, line: bytes) -> None:
        """Append a line, after a newline if the one before is torn.

        Args:
            line: ends in its only newline.

        Raises:
            OSError: the line is not in the file, or in part: a torn line, which the next one won't be fused with.
        """
        data = _NEWLINE + line if self._is_torn else line
        done = 0
        try:
            done = _write_some(self._fd, data)
            while done < len(data):  # a nearly full disk takes a part
                done += _write_some(self._fd, memoryview(data)[done:])
        except OSError:
            if done < len(data) - 1:
                raise  # else the line is whole, and only the newline is owed
        finally:
            self.size += done
            if done:
                self._is_torn = data[done - 1] != _NEWLINE[0]

    def end_line(self) -> None:
        """Write the newline that is owed, if one is.

        Raises:
            OSError: it cannot be written.
        """
        if self._is_torn:
            self.size += _write_some(self._fd, _NEWLINE)
            self._is_torn = False

    def sync(self) -> None:
        """Have the disk keep what was written, and the names of the file and of new folders.

        Raises:
            OSError: it does not; the segment is spoiled.
        """
        try:
            os.fsync(self._fd)
            while self._unsynced:
                _sync_folder(self._unsynced[-1])
                self._unsynced.pop()
        except OSError:
            self.spoiled = True
            raise

    def reopened(self) -> Segment:
        """Open the same file anew and close this descriptor, which kept the file's number from being another's.

        Raises:
            OSError: it cannot be opened, or is another file now.
        """
        fresh = Segment(self.path, create=False, unsynced=self._unsynced)
        if fresh._identity != self._identity:
            fresh.close()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self.path))
        self.close()
        return fresh

    def close(self) -> None:
        """Close the descriptor, unless somebody else did and its number may be another file's now."""
        if self._is_ours():
            os.close(self._fd)

    def _is_ours(self) -> bool:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def lock(self) -> bool:
        """Keep the file for this process and its children; return whether nobody else has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True


def _require_file(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something that is no file")
        raise OSError(errno.EINVAL, kind, str(path))


def _above_standard_streams(descriptor: int) -> int:
    if descriptor >= _FIRST_DESCRIPTOR:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    finally:
        os.close(descriptor)


def _write_some(descriptor: int, data: bytes | memoryview) -> int:
    written = os.write(descriptor, data)
    if not written:  # no file system should; it would be tried for ever
        raise OSError(errno.EIO, "nothing was written")
    return written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, _FOLDER_FLAGS)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


class Listed(NamedTuple):
    """A file of a log: its number, path and size in bytes."""

    number: int
    path: Path
    size: int


class SegmentFiles:
    """The files of one log: `NAME.jsonl`, then `NAME.segment001.jsonl` and so on, which sort after it.

    Args:
        first: path of the first of them.
    """

    def __init__(self, first: Path) -> None:
        self._first = first
        self._unsynced: list[Path] = []  # of all segments: a sync that failed leaves its folders to the next
        self._name = re.compile(rf"{re.escape(first.stem)}\.segment([0-9]{{3,}}){re.escape(first.suffix)}")

    def open_first(self) -> Segment:
        """Make the first file, or go on in the one that is there.

        Raises:
            OSError: it cannot be opened.
        """
        self._make_folder()
        return Segment(self._first, create=_status(self._first) is None, unsynced=self._unsynced)

    def create_next(self) -> Segment:
        """Make the file after the newest; what has its name already is passed over.

        Raises:
            OSError: it cannot be made.
        """
        self._make_folder()
        number = max((item.number for item in self.segments()), default=0)
        while True:
            number += 1
            try:
                return Segment(self._path_of(number), create=True, unsynced=self._unsynced)
            except FileExistsError:  # a folder, a link: not ours
                continue

    def _make_folder(self) -> None:
        """Make the folder; note those whose list of names changes by it and by a file in it, the innermost last."""
        changed = [self._first.parent]
        while _status(changed[0]) is None:
            changed.insert(0, changed[0].parent)
        os.makedirs(self._first.parent, exist_ok=True)
        self._unsynced[:] = [folder for folder in self._unsynced if folder not in changed] + changed

    def _path_of(self, number: int) -> Path:
        if number == 0:
            return self._first
        return self._first.with_name(f"{self._first.stem}.segment{number:03d}{self._first.suffix}")

    def segments(self) -> list[Listed]:
        """Return each file of this log, the oldest first. Links and folders are none of it.

        Raises:
            OSError: the folder cannot be read.
        """
        found = []
        for name in os.listdir(self._first.parent):
            match = self._name.fullmatch(name)
            number = int(match[1]) if match else 0
            path = self._path_of(number)
            status = _status(path) if path.name == name else None
            if status and stat.S_ISREG(status.st_mode):
                found.append(Listed(number, path, status.st_size))
        return sorted(found)

    def remove(self, path: Path) -> None:
        """Remove one of the files.

        Raises:
            OSError: it cannot be removed.
        """
        os.unlink(path)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
