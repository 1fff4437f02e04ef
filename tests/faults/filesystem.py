"""Model of a file system: the content that programs see, the content on disk, and injected faults.

The model replaces `os` in `sinks.segment`. It has only the functions that this module calls.
"""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

FOLDER, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG


@dataclass(eq=False)
class Node:
    """File or folder. Programs see `data` and `names`, and a power cut leaves the fields `disk` and `disk_names`."""

    number: int
    mode: int
    data: bytes = b""
    disk: bytes = b""
    names: dict = field(default_factory=dict)
    disk_names: dict = field(default_factory=dict)


@dataclass
class Fault:
    """Effect on the next calls of a kind: accept at most `part` bytes, then fail with errno `number`."""

    call: str
    number: int
    times: int
    part: int = 0


class FileSystem:
    """Files in folders, opened by descriptors, cached in memory and written to disk with delay."""

    def __init__(self):
        self._numbers = iter(range(1, 10**9))
        self.root = Node(next(self._numbers), FOLDER)
        self.open_files = {}
        self.faults = []
        self.removed = []
        self.failed_syncs = []
        self.sync_failures = 0

    def __getattr__(self, name):
        return getattr(os, name)

    # Calls of the tests

    def node(self, path, *, missing_ok=False):
        """Return the node of a path. The path's parents must be folders."""
        found = self.root
        for part in Path(path).parts[1:]:
            if not stat.S_ISDIR(found.mode):
                raise _error(errno.ENOTDIR, path)
            found = found.names.get(part)
            if found is None:
                if missing_ok:
                    return None
                raise _error(errno.ENOENT, path)
        return found

    def put(self, path, data=b"", mode=FILE | 0o600):
        """Create a file, as another program does."""
        made = Node(next(self._numbers), mode, data)
        self.node(Path(path).parent).names[Path(path).name] = made
        return made

    def fault(self, call, number, times=1, part=0):
        """Let the next calls of a kind fail."""
        self.faults.append(Fault(call, number, times, part))

    def cut_power(self, written=0):
        """Discard all content that is not on disk, except the first `written` unsynced bytes of each file."""
        self.open_files.clear()
        self.failed_syncs.clear()
        self.faults.clear()
        self._restore(self.root, written)

    def _restore(self, node, written):
        node.data = node.disk = node.data[: len(node.disk) + written]
        node.names = dict(node.disk_names)
        for below in node.names.values():
            self._restore(below, written)

    def write_back_all(self, node=None):
        """Write all content to the disk."""
        node = node or self.root
        self.write_back(node)
        for below in node.names.values():
            self.write_back_all(below)

    def write_back(self, node):
        """Write a file or folder to the disk, as the system may do at any time."""
        node.disk, node.disk_names = node.data, dict(node.names)

    # Calls of the sink

    def open(self, path, flags, mode=0o777):
        self._fail("open", path)
        found = self.node(path, missing_ok=True)
        if flags & os.O_CREAT:
            if found is not None:
                raise _error(errno.EEXIST, path)
            found = self.put(path, mode=FILE | mode)
        elif found is None:
            raise _error(errno.ENOENT, path)
        if not flags & os.O_DIRECTORY:
            assert flags & os.O_APPEND, "only appending keeps what is there"
            assert not flags & os.O_TRUNC, "a log is never cut"
            assert flags & os.O_NOFOLLOW
            assert flags & os.O_CLOEXEC
        descriptor = next(number for number in range(3, 1000) if number not in self.open_files)
        self.open_files[descriptor] = found
        return descriptor

    def write(self, descriptor, data):
        node = self._open(descriptor)
        fault = self._due("write")
        if fault is None:
            node.data += bytes(data)
            return len(data)
        if 0 < fault.part < len(data):
            node.data += bytes(data[: fault.part])
            taken, fault.part = fault.part, 0
            if not fault.number:  # a short write without an error
                fault.times = 0
            return taken
        if not fault.number:
            fault.times = 0
            node.data += bytes(data)
            return len(data)
        fault.times -= 1
        raise _error(fault.number, None)

    def pread(self, descriptor, size, offset):
        self._fail("pread", None)
        return self._open(descriptor).data[offset : offset + size]

    def fsync(self, descriptor):
        node = self._open(descriptor)
        assert descriptor not in self.failed_syncs, "a failed sync is not asked for again"
        try:
            self._fail("fsync", None)
        except OSError:
            self.sync_failures += 1
            if not stat.S_ISDIR(node.mode):
                self.failed_syncs.append(descriptor)
            raise
        self.write_back(node)

    def fstat(self, descriptor):
        return _status(self._open(descriptor))

    def lstat(self, path):
        return _status(self.node(path))

    def listdir(self, path):
        self._fail("listdir", path)
        return list(self.node(path).names)

    def makedirs(self, path, exist_ok):
        self._fail("makedirs", path)
        found = self.root
        for part in Path(path).parts[1:]:
            found = found.names.setdefault(part, None) or self._folder(found, part)
            if not stat.S_ISDIR(found.mode):
                raise _error(errno.EEXIST, path)

    def _folder(self, above, name):
        above.names[name] = Node(next(self._numbers), FOLDER)
        return above.names[name]

    def unlink(self, path):
        self._fail("unlink", path)
        self.node(path)
        del self.node(Path(path).parent).names[Path(path).name]
        self.removed.append(str(path))

    def close(self, descriptor):
        self._open(descriptor)
        del self.open_files[descriptor]
        if descriptor in self.failed_syncs:
            self.failed_syncs.remove(descriptor)

    def _open(self, descriptor):
        if descriptor not in self.open_files:
            raise _error(errno.EBADF, None)
        return self.open_files[descriptor]

    def _due(self, call):
        self.faults = [fault for fault in self.faults if fault.times > 0]
        return next((fault for fault in self.faults if fault.call == call), None)

    def _fail(self, call, path):
        fault = self._due(call)
        if fault is not None:
            fault.times -= 1
            raise _error(fault.number, path)


def _error(number, path):
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


def _status(node):
    return os.stat_result((node.mode, node.number, 1, 1, 0, 0, len(node.data), 0, 0, 0))
