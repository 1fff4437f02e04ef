"""A prepared data set in progress, with checked blocks and written parts."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.data.preparation import prepared_dataset
from higgs_audio_trainer.data.preparation.blocks import Block, SampleRules
from higgs_audio_trainer.data.preparation.jobs import Job, read_jobs, write_jobs
from higgs_audio_trainer.data.preparation.samples_table import SamplesTable
from higgs_audio_trainer.errors import InputProblem

T = TypeVar("T")
_MOST_RETRIED = 1_000  # clips with problems that are tried again at the next start


@dataclass(frozen=True, slots=True)
class PlannedDataset:
    """A manifest on its way to a prepared data set.

    Attributes:
        table: Samples of the manifest.
        folder: Folder of the data set. Its name is the fingerprint.
        rules: Limits and tools for samples.
        since: Time from which on problems are new, seconds. Older problems may be gone, such as a file without
            permission to read.
    """

    table: SamplesTable
    folder: Path
    rules: SampleRules
    since: float

    @property
    def is_complete(self) -> bool:
        """True if the data set is complete."""
        return prepared_dataset.is_complete(self.folder)

    def units(self, stage: str) -> list[str]:
        """Return the names of the claims of all blocks."""
        return [f"{self.folder.name}-{stage}-{number}" for number in range(self.table.num_blocks)]

    @staticmethod
    def number(unit: str) -> int:
        """Return the number of the block of a claim."""
        return int(unit.rpartition("-")[2])

    def block(self, number: int) -> Block:
        """Read a checked block without jobs.

        Raises:
            FileNotFoundError: The block is missing, or was damaged and is removed.
        """
        return _read(self._path(number), Block.read)

    def jobs(self) -> Iterator[Job]:
        """Yield the clips of all blocks without a row in the index."""
        for number in range(self.table.num_blocks):
            yield from read_jobs(self._path(number, "jobs"))

    def write_block(self, number: int, block: Block) -> None:
        """Write a checked block."""
        self._path(number).parent.mkdir(parents=True, exist_ok=True)
        self._path(number, "part").unlink(missing_ok=True)
        if block.problems:
            _write(self._path(number, "problems"), [block.problems])
        else:
            self._path(number, "problems").unlink(missing_ok=True)
        with atomic_file(self._path(number, "jobs")) as file:
            write_jobs(file, block.jobs)
        block.write(self._path(number))

    def is_checked(self, number: int) -> bool:
        """Return True for a checked block whose problems are new."""
        exist = self._path(number).exists() and self._path(number, "jobs").exists()
        problems = self._path(number, "problems")
        return exist and (not problems.exists() or self._is_new(problems))

    def problems(self) -> list[InputProblem]:
        """Return the problems of all lines and checked blocks, in the order of the manifest."""
        found: list[tuple[str, str, str, str]] = []
        for number in range(self.table.num_blocks):
            path = self._path(number, "problems")
            if path.exists():
                found += _read(path, _loads)[0]
        return _in_order([*self.table.problems, *(InputProblem(*problem) for problem in found)])

    def write_part(self, number: int, rows: Sequence[dict[str, Any]], block: Block) -> None:
        """Write the rows of a block."""
        digest = prepared_dataset.write_part(self.folder / self._part_name(number), rows)
        _write(self._path(number, "part"), [digest, block.problems, block.retry, block.decisions])

    def is_written(self, number: int) -> bool:
        """Return True for a written part whose problems are new."""
        part = self._path(number, "part")
        return part.exists() and (self._is_new(part) or not _read(part, _loads)[1])

    def complete(self) -> None:
        """Complete the data set, and remove the blocks."""
        digest = hashlib.blake2b(digest_size=16)
        problems: list[tuple[str, str, str, str]] = []
        retry: list[list[Any]] = []
        decisions: dict[str, dict[str, None]] = {}
        for number in range(self.table.num_blocks):
            part, more_problems, more_retry, made = _read(self._path(number, "part"), _loads)
            digest.update(part.encode())
            problems += more_problems
            retry += more_retry
            for decision, names in made.items():
                decisions.setdefault(decision, {}).update(dict.fromkeys(names))
        about = {
            "name": self.table.name,
            "fingerprint": digest.hexdigest(),
            "num_codebooks": self.rules.clips.num_codebooks,
            "problems": _in_order([*self.table.problems, *(InputProblem(*problem) for problem in problems)]),
            "retry": retry[:_MOST_RETRIED],
            "decisions": {decision: list(names) for decision, names in decisions.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        prepared_dataset.complete(self.folder, self.table.num_blocks, about)
        shutil.rmtree(self.folder / "blocks", ignore_errors=True)

    def _is_new(self, path: Path) -> bool:
        return path.stat().st_mtime >= self.since

    def _path(self, number: int, kind: str = "") -> Path:
        return self.folder / "blocks" / f"{number:05d}{kind and f'.{kind}'}.json"

    def _part_name(self, number: int) -> str:
        return prepared_dataset.part_name(number, self.table.num_blocks)


def _write(path: Path, content: list[Any]) -> None:
    with atomic_file(path) as file:
        file.write(orjson.dumps(content, default=list))


def _loads(path: Path) -> Any:
    return orjson.loads(path.read_bytes())


def _read(path: Path, load: Callable[[Path], T]) -> T:
    """Read a file. A damaged file is removed, and missing from now on."""
    try:
        return load(path)
    except (ValueError, TypeError):
        path.unlink(missing_ok=True)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None


def _in_order(problems: Iterable[InputProblem]) -> list[InputProblem]:
    return sorted(problems, key=_line)


def _line(problem: InputProblem) -> int:
    number = problem.where.rpartition(":")[2]
    return int(number) if number.isdecimal() else 0
