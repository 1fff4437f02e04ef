"""The files of a log: names, and system calls on the open file.

All system calls are made by `os` in this module, so that tests can replace `os` by a model file system.
"""
# ruff: noqa: PTH103, PTH108, PTH208

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# Readable for a check of the last byte. Appending keeps lines complete beside another writer. Symlinks are not
# followed, child programs inherit no descriptor, and a FIFO in the place of the file cannot block the run.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MODE = 0o600  # transcripts are private
_OTHERS = 0o077  # permissions of group and others
_FIRST_DESCRIPTOR = 3  # lower numbers are standard streams; a closed one must not become the log
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})  # file systems that store names without a sync
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
    """One open file of a log. Lines are appended, and nothing is truncated or overwritten.

    Attributes:
        path: Path at the time of opening.
        size: Size in bytes at the last check or write.
        spoiled: True after a failed sync. The system may have dropped data, and a later sync reports no error.

    Args:
        path: Path of the file.
        create: True creates the file and fails if the path exists. False opens an existing file.
        unsynced: Folders whose list of names is not synced to the disk. A sync removes folders from the list.

    Raises:
        OSError: The file cannot be opened. EINVAL with the kind of file as the text if the file is not regular.
    """

    def __init__(self, path: Path, *, create: bool, unsynced: list[Path] | None = None) -> None:
        self.path = path
        self._name = os.fspath(path)  # for the check before each write
        self.spoiled = False
        self._unsynced = [] if unsynced is None else unsynced
        if not create:
            _require_file(os.lstat(path), path)
        self._fd = _above_standard_streams(os.open(path, _FLAGS | (os.O_CREAT | os.O_EXCL) * create, _MODE))
        try:
            status = os.fstat(self._fd)
            _require_file(status, path)
            if status.st_mode & _OTHERS:  # an existing file that others can read
                os.fchmod(self._fd, _MODE)
            self._identity = (status.st_dev, status.st_ino)
            self.size = status.st_size
            self._is_torn = self._ends_torn()
        except BaseException:
            os.close(self._fd)
            raise

    def _ends_torn(self) -> bool:
        return self.size > 0 and os.pread(self._fd, 1, self.size - 1) != _NEWLINE

    def check(self) -> str | None:
        """Return None if the file is open and at its path, or else the loss as the end of a sentence."""
        try:
            ours = os.fstat(self._fd)
        except OSError:
            return "was closed by other code"
        if (ours.st_dev, ours.st_ino) != self._identity:
            return "was closed by other code"
        try:
            status = os.lstat(self._name)
        except OSError as error:
            # Other errors are inconclusive, and the next write reports a loss.
            return "was deleted or renamed" if error.errno in _GONE else None
        if (status.st_dev, status.st_ino) != self._identity:
            return "was replaced"
        if status.st_size != self.size:  # another writer, or a write that a signal interrupted
            self.size = status.st_size
            self._is_torn = self._ends_torn()
        return None

    def write(self, line: bytes) -> None:
        """Append a line, after a newline if the previous line is torn.

        Args:
            line: Line with a single newline, at the end.

        Raises:
            OSError: The line is not in the file, or a torn part is. The next line starts a new line.
        """
        data = _NEWLINE + line if self._is_torn else line
        done = 0
        try:
            done = _write_some(self._fd, data)
            while done < len(data):  # a nearly full disk accepts a part
                done += _write_some(self._fd, memoryview(data)[done:])
        except OSError:
            if done < len(data) - 1:
                raise  # otherwise only the newline is missing
        finally:
            self.size += done
            if done:
                self._is_torn = data[done - 1] != _NEWLINE[0]

    def end_line(self) -> None:
        """Write the newline of a torn last line.

        Raises:
            OSError: The newline cannot be written.
        """
        if self._is_torn:
            self.size += _write_some(self._fd, _NEWLINE)
            self._is_torn = False

    def sync(self) -> None:
        """Sync the data of the file and the names of the file and of new folders to the disk.

        Raises:
            OSError: The sync failed, and the segment is spoiled.
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
        """Return the same file opened again, and close this segment.

        The present descriptor stays open until then, so that no other file gets the same inode number.

        Raises:
            OSError: The file cannot be opened, or the path holds another file.
        """
        fresh = Segment(self.path, create=False, unsynced=self._unsynced)
        if fresh._identity != self._identity:
            fresh.close()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self.path))
        self.close()
        return fresh

    def close(self) -> None:
        """Close the descriptor, unless other code closed the descriptor and the number may belong to another file."""
        if self._is_ours():
            os.close(self._fd)

    def _is_ours(self) -> bool:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return False
        return self.is_same(status)

    def is_same(self, status: os.stat_result) -> bool:
        """Return True if a status is that of this file, not of another file at the path."""
        return (status.st_dev, status.st_ino) == self._identity

    def lock(self) -> bool:
        """Lock the file for this process and its children. Return False if another process holds the lock."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True


def _require_file(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "an unknown kind of file")
        raise OSError(errno.EINVAL, f"expected a file, got {kind}", str(path))


def _above_standard_streams(descriptor: int) -> int:
    if descriptor >= _FIRST_DESCRIPTOR:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    finally:
        os.close(descriptor)


def _write_some(descriptor: int, data: bytes | memoryview) -> int:
    written = os.write(descriptor, data)
    if not written:  # no file system should; a loop would never end
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


class ListedSegment(NamedTuple):
    """File of a log: number of the segment, path, size in bytes."""

    number: int
    path: Path
    size: int


class SegmentFiles:
    """The files of a log: `NAME.jsonl`, then `NAME.segment001.jsonl` and so on, in sorted order.

    Args:
        first: Path of the first file.
    """

    def __init__(self, first: Path) -> None:
        self._first = first
        self._created: list[Path] = []  # folders, innermost first
        self._unsynced: list[
            Path
        ] = []  # shared by all segments, so that the next sync repeats a failed sync of folders
        self._name = re.compile(rf"{re.escape(first.stem)}\.segment([0-9]{{3,}}){re.escape(first.suffix)}")

    def open_first(self) -> Segment:
        """Create the first file, or open an existing first file.

        Raises:
            OSError: The file cannot be opened.
        """
        self._make_folder()
        return Segment(self._first, create=_status(self._first) is None, unsynced=self._unsynced)

    def create_next(self) -> Segment:
        """Create the file after the newest file, and skip numbers whose path exists.

        Raises:
            OSError: The file cannot be created.
        """
        self._make_folder()
        number = max((item.number for item in self.segments()), default=0)
        while True:
            number += 1
            try:
                return Segment(self._path_of(number), create=True, unsynced=self._unsynced)
            except FileExistsError:  # a folder or a link of somebody else
                continue

    def _make_folder(self) -> None:
        """Create the folder. Add the folders whose list of names changes to the unsynced folders, innermost last."""
        changed = [self._first.parent]
        while _status(changed[0]) is None:
            self._created.append(changed[0])
            changed.insert(0, changed[0].parent)
        os.makedirs(self._first.parent, exist_ok=True)
        self._unsynced[:] = [folder for folder in self._unsynced if folder not in changed] + changed

    def _path_of(self, number: int) -> Path:
        if number == 0:
            return self._first
        return self._first.with_name(f"{self._first.stem}.segment{number:03d}{self._first.suffix}")

    def segments(self) -> list[ListedSegment]:
        """Return the files of this log, the oldest first. Links and folders do not count.

        Raises:
            OSError: The folder cannot be read.
        """
        found = []
        for name in os.listdir(self._first.parent):
            match = self._name.fullmatch(name)
            number = int(match[1]) if match else 0
            path = self._path_of(number)
            status = _status(path) if path.name == name else None
            if status and stat.S_ISREG(status.st_mode):
                found.append(ListedSegment(number, path, status.st_size))
        return sorted(found)

    def remove(self, path: Path) -> None:
        """Remove a file.

        Raises:
            OSError: The file cannot be removed.
        """
        os.unlink(path)

    def remove_empty(self, segment: Segment) -> None:
        """Remove a segment without events, and then the folders that were created for the segment, if empty."""
        with suppress(OSError):
            status = _status(segment.path)
            if status is not None and segment.is_same(status) and status.st_size == 0:
                os.unlink(segment.path)
                for folder in self._created:
                    folder.rmdir()


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
