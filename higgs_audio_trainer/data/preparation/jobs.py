"""Clips to encode, on the disk, since a manifest may have millions."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self

import numpy as np
import orjson

from higgs_audio_trainer.data.clips import clip_key, state_of
from higgs_audio_trainer.data.preparation.places import numbers_of
from higgs_audio_trainer.data.sample import Clip


class Job(NamedTuple):
    """A clip to encode.

    Attributes:
        path: Bytes of the audio file's name, each as a letter of Latin 1, since a name on a disk may have any encoding.
        offset_s: Start of the clip in the audio file, seconds.
        duration_s: Length of the clip, seconds. None for the rest of the file.
        given: Times of the clip in the manifest, `offset_s`, `duration_s` and `stated_s`, which are part of its key.
        key: Key in the index.
        claim: Name of the claim.
        seconds: Length of the clip.
        least_frames: Lower limit of the number of codec frames.
        shortened: True if the clip ends before the end of its file because of a duration without an offset.
    """

    path: str
    offset_s: float
    duration_s: float | None
    given: tuple[float, float | None, float | None]
    key: str
    claim: str
    seconds: float
    least_frames: int
    shortened: bool

    @property
    def clip(self) -> Clip:
        """The clip."""
        return Clip(self._file, encoded=False, offset_s=self.offset_s, duration_s=self.duration_s)

    def has_changed(self) -> bool:
        """Return True if the file changed since the check of the clip."""
        offset_s, duration_s, stated_s = self.given
        given = Clip(self._file, encoded=False, offset_s=offset_s, duration_s=duration_s, stated_s=stated_s)
        return clip_key(given, state_of(self._file)) != self.key

    @property
    def _file(self) -> Path:
        return Path(os.fsdecode(self.path.encode("latin-1")))


class JobsFile:
    """Jobs in a temporary file, the longest clip first. Memory holds 24 bytes a job.

    The order is the same in every process.

    Args:
        jobs: Jobs in any order, each once.
        folder: Folder on the disk of the file. Created if missing.

    Attributes:
        path: Path by which other processes of this machine open the file as long as this process has it open.
        keys: Second half of each job's key, uint64 [N].
        seconds: Length of each clip, float64 [N]; seconds.

    Example:
        >>> short = Job("a.wav", 0.0, None, (0.0, None, None), "a" * 32, "c", 1.5, 37, False)
        >>> long = short._replace(key="b" * 32, seconds=2.0)
        >>> with tempfile.TemporaryDirectory() as folder, JobsFile([short, long], Path(folder)) as jobs:
        ...     len(jobs), [job.seconds for job in jobs]
        (2, [2.0, 1.5])
    """

    def __init__(self, jobs: Iterable[Job], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        is_linux = Path("/proc/self/fd").exists()  # a file without a name leaves nothing behind after kill -9
        self._file = tempfile.TemporaryFile(dir=folder) if is_linux else tempfile.NamedTemporaryFile(dir=folder)  # noqa: SIM115
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}" if is_linux else self._file.name)
        keys, seconds, ends = bytearray(), array("d"), array("q", [0])
        with tempfile.TemporaryFile(dir=folder) as unsorted:
            for job in jobs:
                line = _line(job)
                unsorted.write(line)
                keys += bytes.fromhex(job.key)
                seconds.append(job.seconds)
                ends.append(ends[-1] + len(line))
            unsorted.flush()
            high, low = numbers_of(keys).T
            order = np.lexsort((low, high, -np.frombuffer(seconds)))
            for number in order.tolist():
                self._file.write(os.pread(unsorted.fileno(), ends[number + 1] - ends[number], ends[number]))
        self._file.flush()
        self.keys, self.seconds = low[order], np.frombuffer(seconds)[order]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Job]:
        """Read the jobs."""
        return read_jobs(self.path)

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def write_jobs(file: IO[bytes], jobs: Iterable[Job]) -> None:
    """Write jobs in JSON Lines."""
    for job in jobs:
        file.write(_line(job))


def read_jobs(path: Path) -> Iterator[Job]:
    """Read the jobs of a file from `write_jobs` or `JobsFile.path`."""
    with path.open("rb") as file:
        for line in file:
            yield Job(*orjson.loads(line))


def _line(job: Job) -> bytes:
    return orjson.dumps(list(job)) + b"\n"
