"""Checkpoints that were saved: which there are, and whether they are whole. Reads no tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from zipfile import BadZipFile, ZipFile

ADAPTER_CONFIG = "adapter_config.json"
_TRAINER_STATE = "trainer_state.json"  # transformers writes it last: a checkpoint without it is not whole
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Adam's state, alone (transformers), sharded (FSDP) or in a folder of its own (DeepSpeed).
_OPTIMIZER_PREFIXES = ("optimizer", "global_step", "pytorch_model_fsdp")
_SAFETENSORS_LENGTH_BYTES = 8  # of the header; then the header, then the tensors


def latest_checkpoint(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Find the last whole checkpoint in a folder.

    Returns:
        The checkpoint, None if there is none; and what is wrong with each that is newer.
    """
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    damaged: list[str] = []
    for _, path in sorted(numbered, reverse=True):
        damage = damage_of(path)
        if damage is None:
            return path, tuple(damaged)
        damaged.append(f"{path.name}: {damage}")
    return None, tuple(damaged)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint.

    Raises:
        OSError: there is no state of the trainer.
        ValueError: the state is not what transformers writes.
    """
    try:
        return int(json.loads((checkpoint / _TRAINER_STATE).read_bytes())["global_step"])
    except (KeyError, TypeError) as error:
        raise ValueError("no step in it") from error


def damage_of(checkpoint: Path) -> str | None:
    """Say what keeps a checkpoint from being resumed; None if it is whole.

    A process or machine that died while saving leaves files out or cuts them off. Headers and directories of the
    files are read, not the tensors: weights that are there in full length are taken to be good.
    """
    try:
        step_of(checkpoint)
        names = sorted(path.name for path in checkpoint.iterdir())
    except OSError as error:
        return f"{error.strerror}: {_TRAINER_STATE}"
    except ValueError:
        return f"{_TRAINER_STATE} is not whole"
    if not any(name.startswith(_OPTIMIZER_PREFIXES) for name in names):
        return "the state of the optimizer is missing (was it saved with --save_only_model?)"
    if not any(name.endswith(".safetensors") or name.startswith("pytorch_model_fsdp") for name in names):
        return "the adapter is missing"
    cut_off = [name for name in names if _is_cut_off(checkpoint / name)]
    return f"{', '.join(cut_off)}: cut off" if cut_off else None


def _is_cut_off(path: Path) -> bool:
    if path.suffix in (".pt", ".pth", ".bin") and path.is_file():
        try:
            ZipFile(path).close()  # its directory is at its end
        except (BadZipFile, OSError):
            return True
    if path.suffix == ".safetensors":
        return _safetensors_is_cut_off(path)
    return False


def _safetensors_is_cut_off(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_SAFETENSORS_LENGTH_BYTES), "little")
            size = path.stat().st_size
            if length > size:
                return True
            header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return True
    return size != _SAFETENSORS_LENGTH_BYTES + length + max(ends, default=0)
