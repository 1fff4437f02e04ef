"""Prepared data set of a manifest: tokens and codes of each sample in Arrow files, memory-mapped.

The folder has the layout of `datasets.Dataset.save_to_disk`, so `datasets.load_from_disk(folder)` reads it. Columns:

- `id` string, `where` string (`file:line` in the manifest), `speaker` string or null, `text` string (what is spoken).
- `tokens` list of int32: the token ids of all texts of the sample, one behind another.
- `segments` list of int32: the sample's segments in order: the number of tokens of a text, or -1 for a clip.
- `supervised` list of int8: 1 for each segment whose tokens are training targets.
- `codes` binary: the codes of all clips, int16, little endian, [K, T] in C order, one clip behind another.
- `frames` list of int32: the number of codec frames T of each clip.
- `length` int32: positions of the sample in the model.
- `audio_seconds` float64: length of all clips together.
- `clips` binary: JSON, what is known of each clip, for the audit.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.data.batch import Ints, PreparedSample, Seconds
from higgs_audio_trainer.data.preparation.samples_table import renamed
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.data.sample import PackedClip
from higgs_audio_trainer.errors import InputProblem

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("where", pa.string()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("segments", pa.list_(pa.int32())),
        ("supervised", pa.list_(pa.int8())),
        ("codes", pa.binary()),
        ("frames", pa.list_(pa.int32())),
        ("length", pa.int32()),
        ("audio_seconds", pa.float64()),
        ("clips", pa.binary()),
    ]
)
_COMPLETE = "state.json"
_ABOUT = "about.json"
_CODES = np.dtype("<i2")


class PreparedDataset(Sequence[PreparedSample]):
    """Samples of a prepared manifest, read from the disk at each access.

    Args:
        folder: Folder of the data set.
        name: Name of the manifest, for places such as `train.jsonl:7`.

    Attributes:
        folder: Folder of the data set.
        name: Name of the manifest.
        num_codebooks: Number of codebooks K.
        fingerprint: Hash of all samples.
        problems: Problems of the samples that were left out.
        retry: Clips with problems, see `higgs_audio_trainer.data.sample.packed`.
        decisions: What was decided for the user about clips.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        about = orjson.loads((folder / _ABOUT).read_bytes())
        self.num_codebooks: int = about["num_codebooks"]
        self.fingerprint: str = about["fingerprint"]
        self._named = about["name"]
        problems = msgspec.convert(about["problems"], list[tuple[str, str, str, str]])
        self.problems = [InputProblem(self.place(where), *more) for where, *more in problems]
        self.retry = msgspec.convert(about["retry"], list[PackedClip])
        self.decisions: dict[str, list[str]] = about["decisions"]
        self._parts = [_Part(folder / entry["filename"]) for entry in _data_files(folder)]
        self._starts = list(accumulate(map(len, self._parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        """Return a sample."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= position < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, position) - 1
        return self._parts[number].sample(position - self._starts[number], self.place, self.num_codebooks)

    def __reduce__(self) -> tuple[type[PreparedDataset], tuple[Path, str]]:
        return type(self), (self.folder, self.name)  # a worker of a data loader maps the files itself

    def lengths(self) -> Ints:
        """Return the length of each sample in positions, int64 [N]."""
        return self._numbers("length").astype(np.int64)

    def audio_seconds(self) -> Seconds:
        """Return the length of each sample's clips together, float64 [N]; seconds."""
        return self._numbers("audio_seconds")

    def _numbers(self, name: str) -> npt.NDArray[Any]:
        return np.concatenate([part.column(name).to_numpy() for part in self._parts])

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Yield the values of some columns, sample by sample."""
        for part in self._parts:
            yield from zip(*(part.column(name).to_pylist() for name in names), strict=True)

    def place(self, where: str) -> str:
        """Return a place under the present name of the manifest."""
        return renamed(where, self._named, self.name)


class _Part:
    """A memory-mapped file. The columns are views of the file without copies."""

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        self._batch = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], schema=SCHEMA)
        self._tokens, self._segments, self._supervised, self._frames = (
            _Lists(self.column(name)) for name in ("tokens", "segments", "supervised", "frames")
        )
        self._ids, self._places, self._texts, self._codes = (
            _Values(self.column(name)) for name in ("id", "where", "text", "codes")
        )
        self._seconds = self.column("audio_seconds").to_numpy()

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def column(self, name: str) -> Any:
        return self._batch.column(SCHEMA.get_field_index(name))

    def sample(self, row: int, place: Callable[[str], str], num_codebooks: int) -> PreparedSample:
        tokens, segments, at = self._tokens[row].astype(np.int64), [], 0
        for length, supervised in zip(self._segments[row].tolist(), self._supervised[row].tolist(), strict=True):
            segments.append(TokenSegment(tokens[at : at + length] if length >= 0 else None, bool(supervised)))
            at += max(length, 0)
        codes, start = np.frombuffer(self._codes[row], dtype=_CODES).astype(np.int64), 0
        clips = []
        for frames in self._frames[row].tolist():
            clips.append(codes[start : start + num_codebooks * frames].reshape(num_codebooks, frames))
            start += num_codebooks * frames
        return PreparedSample(
            str(self._ids[row], "utf-8"),
            tuple(segments),
            tuple(clips),
            place(str(self._places[row], "utf-8")),
            float(self._seconds[row]),
            str(self._texts[row], "utf-8"),
        )


class _Lists:
    """A column of lists of numbers, as arrays."""

    def __init__(self, column: Any) -> None:
        self._offsets, self._values = column.offsets.to_numpy(), column.values.to_numpy()

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self._values[self._offsets[row] : self._offsets[row + 1]]


class _Values:
    """A column of texts or bytes, without nulls, as bytes."""

    def __init__(self, column: Any) -> None:
        _, offsets, data = column.buffers()
        self._offsets = np.frombuffer(offsets, dtype=np.int32)[column.offset :]
        self._data = memoryview(data or b"")

    def __getitem__(self, row: int) -> memoryview:
        return self._data[self._offsets[row] : self._offsets[row + 1]]


def is_complete(folder: Path) -> bool:
    """Return True if a prepared data set is complete."""
    return (folder / _COMPLETE).exists()


def open_undamaged(folder: Path, name: str) -> PreparedDataset | None:
    """Open a complete data set. Return None for a missing or damaged file."""
    try:
        return PreparedDataset(folder, name)
    except (ValueError, KeyError, TypeError):  # of JSON and Arrow
        return None
    except OSError as error:
        if error.errno not in (None, errno.ENOENT):  # Arrow gives no number for a truncated file
            raise
        return None


def discard(folder: Path) -> None:
    """Make a data set incomplete. The next preparation completes the data set."""
    shutil.rmtree(folder / "blocks", ignore_errors=True)
    (folder / _COMPLETE).unlink(missing_ok=True)


def part_name(number: int, count: int) -> str:
    """Return the file name of a part in the style of `datasets`."""
    return f"data-{number:05d}-of-{count:05d}.arrow"


def write_part(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write samples as a file, and return a hash of them.

    Raises:
        OSError: The file cannot be written.
    """
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(repr((row["id"], row["tokens"].tolist(), row["segments"], row["supervised"])).encode())
        digest.update(row["codes"])
    columns = [pa.array([row[field.name] for row in rows], type=field.type) for field in SCHEMA]
    with atomic_file(path, sync=True) as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return digest.hexdigest()


def complete(folder: Path, count: int, about: dict[str, Any]) -> None:
    """Complete a data set whose parts are all written.

    Raises:
        OSError: A file cannot be written.
    """
    state = {
        "_data_files": [{"filename": part_name(number, count)} for number in range(count)],
        "_fingerprint": about["fingerprint"][:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "", "features": None, "homepage": "", "license": ""}
    for name, entry in ((_ABOUT, about), ("dataset_info.json", info), (_COMPLETE, state)):
        with atomic_file(folder / name, sync=True) as file:
            file.write(orjson.dumps(entry, default=list))


def _data_files(folder: Path) -> list[dict[str, str]]:
    files: list[dict[str, str]] = orjson.loads((folder / _COMPLETE).read_bytes())["_data_files"]
    return files
