"""The files of logs: which belong together, and which rank, attempt and segment each is of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.source import STDIN, path_of, unreadable

# As the sink names them, and as they are compressed later. Of a file that is there twice, the first of these is read.
_SUFFIXES = ("", ".gz", ".zst")
_FILE = re.compile(r"rank(\d+)-attempt(\d+)(?:\.segment(\d+))?\.jsonl(\.gz|\.zst|)")


class FileName(NamedTuple):
    """What the name of a file says."""

    rank: int
    attempt: int
    segment: int
    suffix: str


class AttemptFiles(NamedTuple):
    """The files of one rank and attempt, in the order of their segments."""

    rank: int
    attempt: int
    files: Sequence[Path]


def parse_name(path: Path) -> FileName | None:
    """Read a file's name; None for a name that the sink does not give."""
    match = _FILE.fullmatch(path.name)
    return FileName(int(match[1]), int(match[2]), int(match[3] or 0), match[4]) if match else None


def find(paths: Iterable[str | Path]) -> list[list[AttemptFiles]]:
    """Find the logs that paths name: files of one folder are one log, and a file of another name is one by itself.

    Args:
        paths: output directories, folders of logs, files; `-` is standard input.

    Raises:
        UserError: one of them is not there, or holds no log; or two files say that they are the same one.
    """
    logs: dict[Path, dict[FileName, Path]] = {}
    for path in paths:
        for folder, name, file in _found(path_of(path)):
            _add(logs.setdefault(folder, {}), name, file)
    return [files_by_attempt(files) for files in logs.values()]


def files_in(path: Path) -> dict[FileName, Path]:
    """Find the files of a run's output directory, or of the folder of its log.

    Raises:
        OSError: it cannot be listed.
        UserError: two files say that they are the same one.
    """
    return next((found for folder in (path / "events", path) if (found := files_of(folder))), {})


def files_of(folder: Path) -> dict[FileName, Path]:
    """Find the files of the log in a folder.

    Raises:
        OSError: it cannot be listed.
        UserError: two files say that they are the same one.
    """
    files: dict[FileName, Path] = {}
    for file in folder.glob("*.jsonl*"):
        name = parse_name(file)
        if name and file.is_file():
            _add(files, name, file)
    return files


def _add(files: dict[FileName, Path], name: FileName, file: Path) -> None:
    """Add a file of a log; `rank0-attempt0.jsonl` and `rank00000-attempt000.jsonl` cannot both be the same one."""
    other = files.setdefault(name, file)
    if other != file:
        raise UserError(
            f"{max(other, file)}: expected one file of rank {name.rank}, attempt {name.attempt} and segment "
            f"{name.segment}, got {min(other, file).name} too. Move one of them to another folder"
        )


def _found(path: Path) -> list[tuple[Path, FileName, Path]]:
    if path == STDIN:
        return [(path, FileName(0, 0, 0, ""), path)]
    try:
        if not path.is_dir():
            path.stat()
            name = parse_name(path)
            return [(path.parent, name, path) if name else (path, FileName(0, 0, 0, ""), path)]
        found = files_in(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if not found:
        raise UserError(
            f"{path}: expected files named rank00000-attempt000.jsonl, there or in its folder events, got none. "
            "Name a run's --output_dir, or the folder that was given as --sinks jsonl:dir=FOLDER"
        )
    return [(file.parent, name, file) for name, file in found.items()]


def files_by_attempt(files: Mapping[FileName, Path]) -> list[AttemptFiles]:
    """Put the files of one log in order. Of one that is there twice, the one that is not compressed is taken."""
    found: dict[tuple[int, int], dict[int, Path]] = {}
    for name in sorted(files, key=lambda name: (*name[:3], _SUFFIXES.index(name.suffix))):
        found.setdefault((name.rank, name.attempt), {}).setdefault(name.segment, files[name])
    return [AttemptFiles(rank, attempt, list(segments.values())) for (rank, attempt), segments in found.items()]
