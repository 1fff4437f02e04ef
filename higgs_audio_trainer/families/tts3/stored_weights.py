"""Weights in the files of a checkpoint of Higgs TTS 3."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.families.tts3.names import CODEC, LAYOUTS, port_name
from higgs_audio_trainer.hub import hub_error
from higgs_audio_trainer.weight_files import LENGTH_BYTES, read_header, shards_of

_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_NAMED = 5


@dataclass(frozen=True)
class StoredWeight:
    """A weight in a file.

    Attributes:
        path: File.
        name: Name in the file.
        shape: Shape.
        dtype: Type in the words of safetensors, such as `BF16`.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class StoredWeights:
    """Weights of a checkpoint, without the codec.

    Attributes:
        files: Files of the weights.
        index: Index of the files. None with one file.
        weights: Weights by their names in the port.
        layout: One of `LAYOUTS`.
    """

    files: tuple[Path, ...]
    index: Path | None
    weights: dict[str, StoredWeight]
    layout: str

    def tensors(self, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """Read all weights.

        Args:
            dtype: Type of the tensors. None for the types of the files.
        """
        tensors = {}
        for path in self.files:
            with safe_open(path, "pt") as file:
                for name, weight in self.weights.items():
                    if weight.path == path:  # a copy, since the file may change while its memory map is in use
                        tensors[name] = file.get_tensor(weight.name).to(dtype, copy=True)
        return tensors

    def copy(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Copy the files, and write tensors that differ over the copies. All other bytes stay, the codec's too.

        Args:
            folder: Folder to write to.
            tensors: Tensors by their names in the port, of the shapes and types of the files.

        Raises:
            OSError: A file cannot be written.
        """
        if self.index is not None:
            shutil.copyfile(self.index, folder / self.index.name)
        for path in self.files:
            copied = folder / path.name
            shutil.copyfile(path, copied)
            offsets = _offsets(path)
            with safe_open(path, "pt") as base, copied.open("r+b") as file:
                for name, weight in self.weights.items():
                    if weight.path == path and not torch.equal(base.get_tensor(weight.name), tensors[name]):
                        file.seek(offsets[weight.name])
                        file.write(tensors[name].contiguous().view(torch.uint8).numpy().data)


def find(name: str) -> StoredWeights:
    """Find the weights of a checkpoint. The headers of the files are read, not the weights.

    Args:
        name: Folder, or name on the Hugging Face Hub.

    Raises:
        UserError: A file is missing or damaged, or holds a weight twice.
    """
    try:
        files, index = _files_of(name)
        found = []
        for path in files:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(key)
                    found.append(StoredWeight(path, key, tuple(part.get_shape()), part.get_dtype()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise hub_error(error, "--base_ckpt", name) or not_loaded(name, one_line(error)) from error
    kept = [weight for weight in found if not weight.name.startswith(CODEC)]
    counts = Counter(port_name(weight.name) for weight in kept)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise not_loaded(name, f"expected each weight once, got {some(twice)} twice")
    is_original = any(port_name(weight.name) != weight.name for weight in kept)
    return StoredWeights(files, index, {port_name(weight.name): weight for weight in kept}, LAYOUTS[not is_original])


def _files_of(name: str) -> tuple[tuple[Path, ...], Path | None]:
    """Return the files of the weights, and their index if there are several."""
    single = cached_file(name, _FILE, _raise_exceptions_for_missing_entries=False)
    if single is not None:
        return (Path(single),), None
    index = cached_file(name, _INDEX, _raise_exceptions_for_missing_entries=False)
    if index is None:
        raise OSError(f"expected {_FILE} or {_INDEX}, got neither")
    shards = sorted(shards_of(Path(index)))
    return tuple(Path(str(cached_file(name, shard))) for shard in shards), Path(index)


def _offsets(path: Path) -> dict[str, int]:
    """Return the place of each tensor in a file of safetensors; bytes."""
    length, header = read_header(path)
    return {name: LENGTH_BYTES + length + entry["data_offsets"][0] for name, entry in header.items()}


def some(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def not_loaded(name: str, why: str) -> UserError:
    """Return the error that a checkpoint cannot be loaded."""
    return UserError(f"--base_ckpt {name}: the weights cannot be loaded: {why}")
