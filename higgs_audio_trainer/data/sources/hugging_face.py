"""Data sets of Hugging Face: saved in a folder, in Parquet files, or on the Hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from higgs_audio_trainer.data.sources.arrow_rows import ArrowRows
from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.documents import read_json
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.hub import hub_error, reach
from higgs_audio_trainer.phases import phase

_ROWS = 64
_PART = re.compile(r"[-_.]?\d+([-_]of[-_]\d+)?$")


def parquet_rows(name: str, paths: Sequence[Path], columns: Columns, audio_folder: Path | None) -> ArrowRows:
    """Return the rows of Parquet files, one file after the other.

    Raises:
        UserError: A file cannot be read.
    """
    try:
        schema = pq.read_schema(paths[0])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{paths[0]}: expected a Parquet file, got {str(error).splitlines()[0]}") from error
    return ArrowRows(
        name, "Parquet", paths[0].parent, _hash_of(paths), schema, partial(_parquet, paths), columns, audio_folder
    )


def _splits(path: Path) -> list[str]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON, got: {_first_line(error)}. Save the data set again.") from error
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, list) or not splits or not all(isinstance(split, str) for split in splits):
        raise UserError(f"{path}: expected the names of splits, got none. Save the data set again.")
    return splits


def saved_rows(name: str, folder: Path, split: str | None, columns: Columns, audio_folder: Path | None) -> ArrowRows:
    """Return the rows of a folder from `save_to_disk`.

    Raises:
        UserError: The folder has other splits, or cannot be read.
    """
    from datasets import load_from_disk

    part = folder
    if (folder / "dataset_dict.json").is_file():
        splits = _splits(folder / "dataset_dict.json")
        if split is None and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            raise UserError(
                f"{name}: expected one of the splits {', '.join(splits)}, got {split or 'none'}. "
                f"Name the split: hf:{folder}:{splits[0]}"
            )
        part = folder / str(split)
    try:
        dataset = load_from_disk(str(part))
    except Exception as error:
        raise UserError(f"{part}: expected a data set from save_to_disk, got {_first_line(error)}") from error
    if part == folder and split is not None and split != str(dataset.split):
        expected = (
            f"the only split of the folder, {dataset.split}" if dataset.split else "no split, as the folder has none"
        )
        raise UserError(f"{name}: expected {expected}, got {split}. Name the folder: hf:{folder}")
    fingerprint = _hash_of([path for path in sorted(part.iterdir()) if path.is_file()])
    return _dataset_rows(name, "a saved data set", dataset, part, fingerprint, columns, audio_folder)


def hub_rows(name: str, columns: Columns, audio_folder: Path | None) -> ArrowRows:
    """Return the rows of a split of a data set on the Hub, downloaded to the cache of `datasets`.

    Args:
        name: `hf:OWNER/NAME:SPLIT`, or `hf:OWNER/NAME:CONFIGURATION:SPLIT`.
        columns: Names of columns.
        audio_folder: Folder for recordings that are given as bytes.

    Raises:
        UserError: The name has no split, or the data set cannot be downloaded.
    """
    from datasets import load_dataset

    repository, *parts = name.removeprefix("hf:").split(":")
    if not 1 <= len(parts) <= 2 or not all(parts):  # noqa: PLR2004 - a configuration and a split
        raise UserError(
            f"{name}: expected a folder, or a data set on the Hub with its split, such as hf:{repository}:train"
        )
    configuration = parts[0] if len(parts) > 1 else None
    reach(repository, name, kind="dataset")
    try:
        with phase(f"downloading {name}"):
            dataset = load_dataset(repository, configuration, split=parts[-1])
    except Exception as error:
        raise hub_error(error, name, repository, kind="dataset") or UserError(
            f"{name}: expected a data set on the Hub, got {type(error).__name__}: {_first_line(error)}. "
            "Check the name, the split and the network, or name a folder."
        ) from error
    fingerprint = blake2b(f"{name}\0{dataset._fingerprint}".encode(), digest_size=16).hexdigest()  # noqa: SLF001
    return _dataset_rows(name, "a data set on the Hub", dataset, Path.cwd(), fingerprint, columns, audio_folder)


def _dataset_rows(
    name: str, form: str, dataset: Any, folder: Path, fingerprint: str, columns: Columns, audio_folder: Path | None
) -> ArrowRows:
    # The format "arrow" gives recordings as stored. Any other format decodes them.
    arrow = dataset.with_format("arrow")

    def tables(names: list[str]) -> Iterator[pa.Table]:
        return iter(arrow.select_columns(names).iter(_ROWS))

    return ArrowRows(name, form, folder, fingerprint, arrow.features.arrow_schema, tables, columns, audio_folder)


def _parquet(paths: Sequence[Path], names: list[str]) -> Iterator[pa.Table]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, columns=names):
                yield pa.Table.from_batches([batch])


def matching(pattern: str) -> list[Path]:
    """Return the Parquet files that a pattern matches, in the order of their names.

    Raises:
        UserError: The pattern matches no file, or another file.
    """
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - may be absolute
    others = [path for path in paths if path.suffix != ".parquet"]
    if not paths or others:
        raise UserError(f"{pattern}: expected Parquet files, got {others[0] if others else 'no file of such a name'}")
    return paths


def of_split(name: str, folder: Path, split: str | None) -> list[Path]:
    """Return the Parquet files of a split in a folder, or in its folder `data`. Empty if there is no Parquet file.

    The split is the name of a file without the number of its part, as in `train-00000-of-00002.parquet`.

    Raises:
        UserError: There are several splits and none is named, or the split does not exist.
    """
    paths = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(_PART.sub("", path.stem), []).append(path)
    if not paths or (split is None and len(by_split) == 1):
        return paths
    if split not in by_split:
        raise UserError(
            f"{name}: expected one of the splits {', '.join(by_split)}, got {split or 'none'}. "
            f"Name the split, {folder}:{next(iter(by_split))}, or a pattern, '{paths[0].parent}/*.parquet'."
        )
    return by_split[split]


def _hash_of(paths: Sequence[Path]) -> str:
    """Return a hash of the names, sizes and modification times of files."""
    digest = blake2b(digest_size=16)
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
