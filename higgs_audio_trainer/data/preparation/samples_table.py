"""Samples of a manifest on disk, so that each process reads a part without parsing the manifest again.

A folder holds three files:

- `samples.arrow`: Arrow file, a record batch for each block of samples.
- `files.arrow`: Arrow file, the paths of all files that the samples name, as bytes, few of them more than once.
- `table.json`: notes and problems of the manifest. Written last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from higgs_audio_trainer.atomic_file import replace_folder
from higgs_audio_trainer.data.clips import MISSING, state_of
from higgs_audio_trainer.data.preparation.map_files import map_files
from higgs_audio_trainer.data.sample import Sample, Turn, packed, unpacked
from higgs_audio_trainer.errors import InputProblem

BLOCK_SAMPLES = 2_000
_SAMPLES = pa.schema(
    [
        ("where", pa.string()),
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("turns", pa.binary()),
        ("is_chat", pa.bool_()),
    ]
)
_FILES = pa.schema([("path", pa.binary())])
_TABLE = "table.json"
_MOST_FILES = 50_000  # that are kept in memory to name each once


class _Facts(msgspec.Struct):
    """Content of `table.json`, typed so that a damaged file is a `msgspec.DecodeError`."""

    name: str
    samples: int
    has_audio: bool
    notes: list[str]
    problems: list[tuple[str, str, str, str]]
    sizes: dict[str, int]


class SamplesTable:
    """Samples of a manifest.

    Args:
        folder: Folder of the files.
        name: Name of the manifest, for places such as `train.jsonl:7`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self.name = folder, name
        about = _read(folder)
        self.num_samples = about.samples
        self.notes = about.notes
        self._named = about.name
        self.problems = [InputProblem(renamed(where, about.name, name), *more) for where, *more in about.problems]
        self.has_audio = about.has_audio

    @property
    def num_blocks(self) -> int:
        """Number of blocks of samples."""
        return -(-self.num_samples // BLOCK_SAMPLES)

    def block(self, number: int) -> Iterator[Sample]:
        """Yield the samples of a block."""
        with pa.memory_map(str(self._folder / "samples.arrow")) as source:
            batch = pa.ipc.open_file(source).get_batch(number)
            columns = (column.to_pylist() for column in batch.columns)
            for where, name, speaker, turns, is_chat in zip(*columns, strict=True):
                yield Sample(name, _unpacked(turns), renamed(where, self._named, self.name), speaker, is_chat)

    @cached_property
    def file_states(self) -> npt.NDArray[np.int64]:
        """Size and time of the last change of each file, int64 [files, 2]."""
        with pa.memory_map(str(self._folder / "files.arrow")) as source:
            batches = pa.ipc.open_file(source)
            parts = (batches.get_batch(number)[0].to_pylist() for number in range(batches.num_record_batches))
            return np.concatenate(list(_states(parts)))

    @property
    def misses_files(self) -> bool:
        """True if a file is missing."""
        return bool((self.file_states[:, 0] == MISSING.size).any())


def is_complete(folder: Path, since: float) -> bool:
    """Return True if a table is complete, and has no problems or is new.

    A problem may be gone at the next start, such as a missing file.

    Args:
        folder: Folder of the table.
        since: Time since which a table is new, seconds.
    """
    try:
        about = _read(folder)
        is_whole = all((folder / name).stat().st_size == size for name, size in about.sizes.items())
        return is_whole and (not about.problems or is_new(folder, since))
    except (FileNotFoundError, ValueError):  # missing or damaged
        return False


def _read(folder: Path) -> _Facts:
    return msgspec.json.decode((folder / _TABLE).read_bytes(), type=_Facts)


def is_new(folder: Path, since: float) -> bool:
    """Return True if a table exists and was made since a time."""
    try:
        return (folder / _TABLE).stat().st_mtime >= since
    except FileNotFoundError:
        return False


def write(
    folder: Path,
    name: str,
    samples: Iterator[Sample],
    problems: list[InputProblem],
    notes: list[str],
    after_block: Callable[[int], None],
) -> None:
    """Write the samples of a manifest.

    Args:
        folder: Folder of the table. Replaced if it exists.
        name: Name of the manifest.
        samples: Samples, in the order of the manifest.
        problems: Problems of lines. Filled while the samples are read.
        notes: What to tell the user about the manifest. Filled while the samples are read.
        after_block: Called with the number of samples that were read.

    Raises:
        OSError: The folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        count, has_audio = _write_samples(temporary, samples, after_block)
        about = {
            "name": name,
            "samples": count,
            "has_audio": has_audio,
            "notes": list(map(text_of, notes)),
            "problems": [tuple(map(text_of, problem)) for problem in problems],
            "sizes": {path.name: path.stat().st_size for path in temporary.iterdir()},
        }
        (temporary / _TABLE).write_bytes(orjson.dumps(about, default=list))
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_samples(folder: Path, samples: Iterator[Sample], after_block: Callable[[int], None]) -> tuple[int, bool]:
    """Write samples and the names of their files. Return the number of samples, and True if a clip is audio."""
    files: dict[bytes, None] = {}
    count, has_audio = 0, False
    with (
        pa.OSFile(str(folder / "samples.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, _SAMPLES) as writer,
        pa.OSFile(str(folder / "files.arrow"), "wb") as files_sink,
        pa.ipc.new_file(files_sink, _FILES) as files_writer,
    ):
        while block := list(islice(samples, BLOCK_SAMPLES)):
            count += len(block)
            after_block(count)
            for sample in block:
                for clip in sample.clips:
                    has_audio |= not clip.encoded
                    files[os.fsencode(clip.path)] = None
            columns = [
                [text_of(sample.where) for sample in block],
                [text_of(sample.id) for sample in block],
                [sample.speaker and text_of(sample.speaker) for sample in block],
                [_packed(sample.turns) for sample in block],
                [sample.is_chat for sample in block],
            ]
            writer.write_batch(pa.record_batch(columns, schema=_SAMPLES))
            if len(files) > _MOST_FILES:
                files_writer.write_batch(pa.record_batch([list(files)], schema=_FILES))
                files.clear()
        files_writer.write_batch(pa.record_batch([list(files)], schema=_FILES))
    return count, has_audio


def renamed(where: str, before: str, name: str) -> str:
    """Return a place under the present name of the manifest.

    Example:
        >>> renamed("data/train.jsonl:7", "data/train.jsonl", "train.jsonl")
        'train.jsonl:7'
    """
    return name + where.removeprefix(before) if where.startswith(f"{before}:") else where


def text_of(name: str) -> str:
    r"""Return a name on a disk, in any encoding, as a text in UTF-8.

    Example:
        >>> text_of("caf\udce9.wav")
        'caf\\udce9.wav'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def digest_of(states: npt.NDArray[np.int64]) -> str:
    """Return a hash of the states of files."""
    return hashlib.blake2b(states.tobytes(), digest_size=16).hexdigest()


def _states(parts: Iterable[list[bytes]]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the states of the files of each part, int64 [files, 2]."""
    for paths in parts:
        states = list(map_files(state_of, list(map(os.fsdecode, paths))))
        yield np.array(states, dtype=np.int64).reshape(-1, 2)


def _packed(turns: tuple[Turn, ...]) -> bytes:
    return orjson.dumps(
        [
            [
                turn.role,
                [part if isinstance(part, str) else packed(part) for part in turn.parts],
                turn.supervised,
                turn.recipient,
            ]
            for turn in turns
        ]
    )


def _unpacked(turns: bytes) -> tuple[Turn, ...]:
    return tuple(
        Turn(role, tuple(part if isinstance(part, str) else unpacked(part) for part in parts), supervised, recipient)
        for role, parts, supervised, recipient in orjson.loads(turns)
    )
