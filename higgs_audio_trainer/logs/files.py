"""Files of logs, grouped by log, rank, attempt and segment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.source import STDIN, path_of, unreadable

# Suffixes of the JSONL sink's files and of compressed copies. Of two copies of a file, the copy whose suffix is listed
# first is read.
_SUFFIXES = ("", ".gz", ".zst")
_FILE = re.compile(r"rank(\d+)-attempt(\d+)(?:\.segment(\d+))?\.jsonl(\.gz|\.zst|)")


class FileName(NamedTuple):
    """Rank, attempt, segment and compression suffix in a file's name."""

    rank: int
    attempt: int
    segment: int
    suffix: str


class AttemptFiles(NamedTuple):
    """Files of a rank and attempt, sorted by segment."""

    rank: int
    attempt: int
    files: Sequence[Path]


def parse_name(path: Path) -> FileName | None:
    """Parse the name of a file; return None for a name unknown to the JSONL sink.

    Example:
        >>> parse_name(Path("events/rank00001-attempt000.segment002.jsonl.gz"))
        FileName(rank=1, attempt=0, segment=2, suffix='.gz')
        >>> parse_name(Path("golden.jsonl")) is None
        True
    """
    match = _FILE.fullmatch(path.name)
    return FileName(int(match[1]), int(match[2]), int(match[3] or 0), match[4]) if match else None


def find(paths: Iterable[str | Path]) -> list[list[AttemptFiles]]:
    """Find the logs at paths. The files of a folder form a log; a file with another name is a log by itself.

    Args:
        paths: Output directories, folders of logs, or files. `-` is standard input.

    Raises:
        UserError: A path is missing or holds no log, or two files have the same rank, attempt and segment.
    """
    logs: dict[Path, dict[FileName, Path]] = {}
    for path in paths:
        for folder, name, file in _located(path_of(path)):
            _add(logs.setdefault(folder, {}), name, file)
    return [files_by_attempt(files) for files in logs.values()]


def files_in(path: Path) -> dict[FileName, Path]:
    """Find the log files of a run's output directory or of a folder of logs.

    Raises:
        OSError: The folder cannot be listed.
        UserError: Two files have the same rank, attempt and segment.
    """
    return next((found for folder in (path / "events", path) if (found := files_of(folder))), {})


def files_of(folder: Path) -> dict[FileName, Path]:
    """Find the log files directly in a folder.

    Raises:
        OSError: The folder cannot be listed.
        UserError: Two files have the same rank, attempt and segment.
    """
    files: dict[FileName, Path] = {}
    for file in folder.glob("*.jsonl*"):
        name = parse_name(file)
        if name and file.is_file():
            _add(files, name, file)
    return files


def _add(files: dict[FileName, Path], name: FileName, file: Path) -> None:
    """Add a file to a log; refuse a second spelling of a name, such as `rank0-attempt0.jsonl`."""
    other = files.setdefault(name, file)
    if other != file:
        raise UserError(
            f"{max(other, file)}: expected one file of rank {name.rank}, attempt {name.attempt} and segment "
            f"{name.segment}, got {min(other, file).name} too. Move one of them to another folder"
        )


def _located(path: Path) -> list[tuple[Path, FileName, Path]]:
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
    """Group the files of a log by rank and attempt, sorted by segment.

    Of two copies of a file, the uncompressed copy counts.

    Example:
        >>> paths = map(Path, ("rank00000-attempt000.segment001.jsonl", "rank00000-attempt000.jsonl.gz"))
        >>> [group] = files_by_attempt({parse_name(path): path for path in paths})
        >>> group.rank, group.attempt, [path.name for path in group.files]
        (0, 0, ['rank00000-attempt000.jsonl.gz', 'rank00000-attempt000.segment001.jsonl'])
    """
    found: dict[tuple[int, int], dict[int, Path]] = {}
    for name in sorted(files, key=lambda name: (*name[:3], _SUFFIXES.index(name.suffix))):
        found.setdefault((name.rank, name.attempt), {}).setdefault(name.segment, files[name])
    return [AttemptFiles(rank, attempt, list(segments.values())) for (rank, attempt), segments in found.items()]


def output_dir_of(file: Path) -> Path | None:
    """Return the output directory of a log's file, the parent of `events/`. None if there is no such folder.

    Example:
        >>> output_dir_of(Path("/runs/one/events/rank00000-attempt000.jsonl")), output_dir_of(Path("/runs/a.jsonl"))
        (PosixPath('/runs/one'), None)
    """
    folder = file.absolute().parent
    return folder.parent if folder.name == "events" else None
