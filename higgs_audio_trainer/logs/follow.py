"""Reading logs while a run writes the files, in rounds.

Each round lists the folders again to find new segments, attempts and ranks, and reads on in every changed file. A line
without a newline waits for a later round while the writer may still complete the line.
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
from higgs_audio_trainer.logs.run_filter import OnNotice
from higgs_audio_trainer.logs.runs import SelectedLog, followed, warn
from higgs_audio_trainer.logs.source import STDIN, path_of, unreadable

_PartKey = tuple[int, int, int]  # rank, attempt, segment


class Follower:
    """Reads new lines of logs in rounds.

    Args:
        paths: Paths as for `read`. A folder may be empty at first. For a file named by the JSONL sink, later segments
            are followed too.
        run: Id of the run to read, or the beginning of the id. By default the run that began last, and later every run
            that begins.
        all_attempts: Yield lines of replaced steps. A step replaced after its round is yielded in any case.
        on_problem: Receives each invalid line.
        on_notice: Receives each message about a log, as for `read`.

    Attributes:
        waiting: Folders without a log in the last round.

    Raises:
        UserError: A path does not exist.
    """

    def __init__(
        self,
        *paths: str | Path,
        run: str | None = None,
        all_attempts: bool,
        on_problem: OnProblem,
        on_notice: OnNotice | None = None,
    ) -> None:
        self._paths = [path_of(path) for path in paths]
        self._run = run
        self._on_notice = on_notice or warn
        self._all_attempts = all_attempts
        self._on_problem = on_problem
        self._logs: dict[Path, _FollowedLog] = {}
        self.waiting: list[Path] = []
        for path in self._paths:
            if path != STDIN:
                _status(path)

    @property
    def has_ended(self) -> bool:
        """Whether no line can follow. Every input is then read, and no input is a file or folder, which could grow."""
        return bool(self._logs) and not self.waiting and all(log.has_ended for log in self._logs.values())

    def lines(self) -> Iterator[LogLine]:
        """Yield the lines written since the last round, in the order of `read`.

        Raises:
            UserError: A file cannot be read.
        """
        found = self._found()
        self._logs = {folder: log for folder, log in self._logs.items() if folder in found}
        for folder, files in found.items():
            groups = files_by_attempt(files)
            if folder not in self._logs:
                log = followed(groups, self._run, self._on_notice)
                self._logs[folder] = _FollowedLog(self._all_attempts, self._on_problem, log)
            yield from self._logs[folder].lines(groups)

    def _found(self) -> dict[Path, dict[FileName, Path]]:
        """Find the present files of each log. The files of a folder form a log."""
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
    """A file as of the last round.

    Attributes:
        file: Reader that continues after the last line read.
        identity: Device and inode of the file.
        size: Size in bytes.
        growing: Whether an incomplete last line waits for a later round.
        is_lasting: Whether the file is a regular file. A pipe is read once, to the end.
        is_read: Whether the file is unchanged since the last read.
    """

    file: LogFile
    identity: tuple[int, int]
    size: int
    growing: bool
    is_lasting: bool
    is_read: bool = False

    def is_continued(self, path: Path, status: os.stat_result) -> bool:
        """Return True if the file still begins with the lines already read. A file with a new name was compressed."""
        if not self.is_lasting or self.file.path != path:
            return True
        return self.identity == _identity(status) and self.size <= status.st_size


class _FollowedLog:
    """A log with its files and the number of bytes read of each file."""

    def __init__(self, all_attempts: bool, on_problem: OnProblem, log: SelectedLog) -> None:
        self._all_attempts = all_attempts
        self._on_problem = on_problem
        self._takes = log.takes
        self._merger = Merger(log)
        self._parts: dict[_PartKey, _Part] = {}
        self._is_first_round = True

    @property
    def has_ended(self) -> bool:
        return all(part.is_read and not part.is_lasting for part in self._parts.values())

    def lines(self, log: Sequence[AttemptFiles]) -> Iterator[LogLine]:
        """Yield new lines. The first round skips the steps repeated by a later attempt."""
        filters = self._is_first_round and not self._all_attempts
        self._is_first_round = False
        if filters:
            self._merger.look_ahead(SelectedLog(log, self._takes))
        self._look(log)
        news = [(group, self._new_lines(group)) for group in log]
        for key, line in self._merger.merged(news):
            if not filters or self._merger.shows(key, line.record):
                yield line
        self._takes.say_versions()

    def _look(self, log: Sequence[AttemptFiles]) -> None:
        """Update the list of files and find changed files; forget deleted files."""
        before, self._parts = self._parts, {}
        last_attempts = {group.rank: group.attempt for group in log}  # sorted by attempt
        for group in log:
            for path in group.files:
                key = _key(group, path)
                may_be_finished = path == group.files[-1] and group.attempt == last_attempts[group.rank]
                part = self._looked_at(path, before.get(key), may_be_finished, group)
                if part is not None:
                    self._parts[key] = part

    def _looked_at(self, path: Path, part: _Part | None, growing: bool, group: AttemptFiles) -> _Part | None:
        """Return the state of a file, or None for a deleted file."""
        try:
            status = os.fstat(0) if path == STDIN else _status(path)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if part is not None and not part.is_continued(path, status):
            self._merger.forget(group.rank, group.attempt)
            part = None
        seen = _identity(status), status.st_size, growing
        if part is None:
            is_lasting = path != STDIN and stat.S_ISREG(status.st_mode)
            return _Part(LogFile(path, self._on_problem, takes=self._takes), *seen, is_lasting)
        part.is_read &= (part.identity, part.size, part.growing) == seen or not part.is_lasting
        part.identity, part.size, part.growing = seen
        part.file.path = path
        return part

    def _new_lines(self, group: AttemptFiles) -> Iterator[LogLine]:
        for path in group.files:
            part = self._parts.get(_key(group, path))
            if part is None or part.is_read:
                continue
            part.is_read = True
            try:
                yield from part.file.lines(growing=part.growing and part.is_lasting)
            except UserError as error:
                if not isinstance(error.__cause__, FileNotFoundError):  # else the file was deleted in the meantime
                    raise


def _key(group: AttemptFiles, path: Path) -> _PartKey:
    name = parse_name(path)
    return group.rank, group.attempt, name.segment if name else 0


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
