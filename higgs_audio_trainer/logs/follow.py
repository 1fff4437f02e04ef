"""Logs read while they are written: what is there, then what comes, round by round.

A round looks at the folders anew, so that segments, attempts and ranks appear, and reads on in every file that changed.
A line without its newline is left for a later round, for as long as somebody may finish it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.files import AttemptFiles, FileName, files_by_attempt, files_in, files_of, parse_name
from higgs_audio_trainer.logs.lines import LogFile, LogLine, OnProblem
from higgs_audio_trainer.logs.reader import Merger
from higgs_audio_trainer.logs.source import STDIN, path_of, unreadable

_PartKey = tuple[int, int, int]  # rank, attempt, segment


class Follower:
    """Follows logs.

    Args:
        paths: as for `read`; a folder may be empty at first. Of a file that is named as the sink names them, later
            segments are followed too.
        all_attempts: do not leave out what a later attempt made anew. What is superseded later is there already.
        on_problem: is told of each line that cannot be used.

    Attributes:
        waiting: folders that had no log in the last round.

    Raises:
        UserError: one of the paths is not there.
    """

    def __init__(self, *paths: str | Path, all_attempts: bool, on_problem: OnProblem) -> None:
        self._paths = [path_of(path) for path in paths]
        self._all_attempts = all_attempts
        self._on_problem = on_problem
        self._logs: dict[Path, _FollowedLog] = {}
        self.waiting: list[Path] = []
        for path in self._paths:
            if path != STDIN:
                _status(path)

    @property
    def has_ended(self) -> bool:
        """Whether nothing can come: all is read, and none of it is a file or folder that may grow."""
        return bool(self._logs) and not self.waiting and all(log.has_ended for log in self._logs.values())

    def lines(self) -> Iterator[LogLine]:
        """Read one round: yield the lines that came since the last one, in the order of `read`.

        Raises:
            UserError: a file cannot be read.
        """
        found = self._found()
        self._logs = {folder: log for folder, log in self._logs.items() if folder in found}
        for folder, files in found.items():
            log = self._logs.setdefault(folder, _FollowedLog(self._all_attempts, self._on_problem))
            yield from log.lines(files_by_attempt(files))

    def _found(self) -> dict[Path, dict[FileName, Path]]:
        """Find the files that there are now, by their log: files of one folder are one."""
        logs: dict[Path, dict[FileName, Path]] = {}
        self.waiting = []
        for path in self._paths:
            try:
                files = _files_of(path)
            except OSError as error:
                raise unreadable(path, error) from error
            if not files and path.is_dir():
                self.waiting.append(path)
            for name, file in files.items():
                logs.setdefault(file.parent if parse_name(file) else file, {})[name] = file
        return logs


def _files_of(path: Path) -> dict[FileName, Path]:
    if path != STDIN and path.is_dir():
        return files_in(path)
    name = parse_name(path)
    if name is None:
        return {FileName(0, 0, 0, ""): path} if path == STDIN or path.exists() else {}
    return {
        other: file
        for other, file in files_of(path.parent).items()
        if other[:2] == name[:2] and other.segment >= name.segment
    }


@dataclass(slots=True)
class _Part:
    """A file as it was when it was last looked at.

    Attributes:
        file: reads it on.
        identity: of the file that has the name: device and inode.
        size: in bytes.
        growing: whether an unfinished line was left for later.
        is_lasting: a pipe is not: it is read to its end, once.
        is_read: it has not changed since it was read.
    """

    file: LogFile
    identity: tuple[int, int]
    size: int
    growing: bool
    is_lasting: bool
    is_read: bool = False

    def is_continued(self, path: Path, status: os.stat_result) -> bool:
        """Tell whether a file has what this one had, and more. What has another name now was compressed."""
        if not self.is_lasting or self.file.path != path:
            return True
        return self.identity == _identity(status) and self.size <= status.st_size


class _FollowedLog:
    """One log: its files, and how far they were read."""

    def __init__(self, all_attempts: bool, on_problem: OnProblem) -> None:
        self._all_attempts = all_attempts
        self._on_problem = on_problem
        self._merger = Merger()
        self._parts: dict[_PartKey, _Part] = {}
        self._is_first_round = True

    @property
    def has_ended(self) -> bool:
        return all(part.is_read and not part.is_lasting for part in self._parts.values())

    def lines(self, log: Sequence[AttemptFiles]) -> Iterator[LogLine]:
        """Yield what is new. Of attempts that were there at first, what later ones made anew is left out."""
        filters = self._is_first_round and not self._all_attempts
        self._is_first_round = False
        if filters:
            self._merger.look_ahead(log)
        self._look(log)
        news = [(stream, self._new_lines(stream)) for stream in log]
        for key, line in self._merger.merged(news):
            if not filters or self._merger.shows(key, line.record):
                yield line

    def _look(self, log: Sequence[AttemptFiles]) -> None:
        """Look which files there are and which changed; forget those that are gone."""
        before, self._parts = self._parts, {}
        last_attempts = {stream.rank: stream.attempt for stream in log}  # in their order
        for stream in log:
            for path in stream.files:
                key = _key(stream, path)
                may_be_finished = path == stream.files[-1] and stream.attempt == last_attempts[stream.rank]
                part = self._looked_at(path, before.get(key), may_be_finished, stream)
                if part is not None:
                    self._parts[key] = part

    def _looked_at(self, path: Path, part: _Part | None, growing: bool, stream: AttemptFiles) -> _Part | None:
        """Look at a file; None if it is gone."""
        try:
            status = os.fstat(0) if path == STDIN else _status(path)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if part is not None and not part.is_continued(path, status):
            self._merger.forget(stream.rank, stream.attempt)
            part = None
        seen = _identity(status), status.st_size, growing
        if part is None:
            is_lasting = path != STDIN and stat.S_ISREG(status.st_mode)
            return _Part(LogFile(path, self._on_problem), *seen, is_lasting)
        part.is_read &= (part.identity, part.size, part.growing) == seen or not part.is_lasting
        part.identity, part.size, part.growing = seen
        part.file.path = path
        return part

    def _new_lines(self, stream: AttemptFiles) -> Iterator[LogLine]:
        for path in stream.files:
            part = self._parts.get(_key(stream, path))
            if part is None or part.is_read:
                continue
            part.is_read = True
            try:
                yield from part.file.lines(growing=part.growing and part.is_lasting)
            except UserError as error:
                if not isinstance(error.__cause__, FileNotFoundError):  # it went between the look and this
                    raise


def _key(stream: AttemptFiles, path: Path) -> _PartKey:
    name = parse_name(path)
    return stream.rank, stream.attempt, name.segment if name else 0


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
