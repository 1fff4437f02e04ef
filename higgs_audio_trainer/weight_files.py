"""Files of a model's weights: the index of several files, and the header of a file of safetensors. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from higgs_audio_trainer.bounds import MAX_JSON_BYTES
from higgs_audio_trainer.documents import load_json, read_json

#: Bytes of the length of a header of safetensors. Then follow the header, and the tensors.
LENGTH_BYTES = 8


def shards_of(index: Path) -> frozenset[str]:
    """Return the names of the files that an index of weights names.

    Args:
        index: File `model.safetensors.index.json`.

    Raises:
        OSError: The index cannot be read.
        ValueError: The index is damaged, or names a file outside of its folder.
    """
    content = read_json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"{index.name}: expected a weight_map of names of files, got none")
    names = frozenset(named.values())
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise ValueError(f"{index.name}: expected names of files beside the index, got {name[:80]!r}")
    return names


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the size of the header of a file of safetensors in bytes, and the entries of the tensors.

    Raises:
        OSError: The file cannot be read.
        ValueError: The header is damaged or truncated.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > min(MAX_JSON_BYTES, path.stat().st_size - LENGTH_BYTES):
            raise ValueError(f"{path.name}: expected a whole header, got the length {length:,}")
        header = load_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{path.name}: expected a header with tensors, got none")  # noqa: TRY004 - damage of a file
    header.pop("__metadata__", None)
    return length, header
