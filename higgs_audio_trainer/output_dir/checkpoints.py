"""Saved checkpoints of a run: search for the newest complete checkpoint, without reading a tensor."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from higgs_audio_trainer.bounds import way_out
from higgs_audio_trainer.documents import TooLargeError, read_json
from higgs_audio_trainer.weight_files import LENGTH_BYTES, read_header, shards_of

ADAPTER_CONFIG = "adapter_config.json"
SETTINGS_FILE = "training_settings.json"  # settings of the run, for the runs that resume
_TRAINER_STATE = "trainer_state.json"  # transformers writes this file last: without the file, saving was interrupted
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_DEEPSPEED_PREFIX = "global_step"  # of a folder with the states of optimizer and schedule
#: Parts of a complete checkpoint, and how the names of their files and folders begin. Adam's state is a file
#: (transformers), shards (FSDP) or a folder (DeepSpeed).
_PARTS = {
    "the optimizer state (optimizer.pt; was the checkpoint saved with --save_only_model?)": (
        *("optimizer", "pytorch_model_fsdp", _DEEPSPEED_PREFIX),
    ),
    "the state of the learning rate schedule (scheduler.pt)": ("scheduler", _DEEPSPEED_PREFIX),
    "the state of the random generators (rng_state.pth)": ("rng_state",),
    "the adapter (adapter_model.safetensors)": ("adapter_model", "model", "pytorch_model_fsdp"),
}
_WHOLE_CONFIG, _WHOLE_WEIGHTS = "config.json", ("model.safetensors", "model.safetensors.index.json")
_MOST_STEPS = 2**53  # steps that a float counts


def latest_checkpoint(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Return the newest complete checkpoint of a folder.

    Returns:
        The checkpoint, None without a complete checkpoint; and one line of text for each newer, damaged checkpoint.
    """
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    damaged: list[str] = []
    for _, path in sorted(numbered, reverse=True):
        damage = damage_of(path)
        if damage is None:
            return path, tuple(damaged)
        damaged.append(f"{path.name}: {damage}")
    return None, tuple(damaged)


def trained_precision(folder: Path) -> str | None:
    """Return the precision of the base model in the training of an adapter: full, 4 bit or 8 bit.

    Args:
        folder: Output directory of the training, or a checkpoint.

    Returns:
        The precision. None without a checkpoint that records the precision.
    """
    for path in (folder / SETTINGS_FILE, *sorted(folder.glob(f"checkpoint-*/{SETTINGS_FILE}"))):
        with suppress(OSError, ValueError, KeyError, TypeError):
            settings = read_json(path)
            return "4 bit" if settings["load_in_4bit"] else "8 bit" if settings["load_in_8bit"] else "full"
    return None


def is_finished(folder: Path) -> bool:
    """Return True for a folder with an adapter, or with a whole checkpoint, as the end of a training leaves it."""
    is_whole = (folder / _WHOLE_CONFIG).is_file() and any((folder / name).is_file() for name in _WHOLE_WEIGHTS)
    return is_whole or (folder / ADAPTER_CONFIG).is_file()


def is_saved_to_the_end(checkpoint: Path) -> bool:
    """Return True if the save of a checkpoint came to its end, though files may be missing or damaged since."""
    return (checkpoint / _TRAINER_STATE).is_file()


def backend_of(checkpoint: Path) -> str:
    """Return the backend that saved a checkpoint: deepspeed, fsdp, or torch for a plain or DDP training.

    Raises:
        OSError: The folder cannot be listed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "global_step4").mkdir()
        ...     backend_of(Path(folder))
        'deepspeed'
    """
    names = [path.name for path in checkpoint.iterdir()]
    if any(name.startswith(_DEEPSPEED_PREFIX) for name in names):
        return "deepspeed"
    fsdp = any(name.startswith(("pytorch_model_fsdp", "optimizer_")) or name == "optimizer.bin" for name in names)
    return "fsdp" if fsdp else "torch"


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint.

    Raises:
        OSError: The trainer state is missing.
        ValueError: The trainer state is not the JSON that transformers writes.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "trainer_state.json").write_text('{"global_step": 50}')
        ...     step_of(Path(folder))
        50
    """
    try:
        step = read_json(checkpoint / _TRAINER_STATE)["global_step"]
    except (KeyError, TypeError) as error:
        raise ValueError("no step in it") from error
    if type(step) is not int or not 0 <= step < _MOST_STEPS:
        raise ValueError("no step in it")
    return step


def damage_of(checkpoint: Path) -> str | None:
    """Return a description of the damage that prevents resuming from a checkpoint; None for a complete checkpoint.

    A process or machine that dies while saving leaves files missing or truncated. The function reads the headers and
    directories of the files and no tensors. Weights of full length count as good.

    Example:
        >>> damage_of(Path("no-such-folder"))
        'No such file or directory: trainer_state.json'
    """
    try:
        step_of(checkpoint)
        names = sorted(path.name for path in checkpoint.iterdir())
    except OSError as error:
        return f"{error.strerror}: {_TRAINER_STATE}"
    except ValueError as error:
        is_whole = isinstance(error, TooLargeError)  # of a long training that logged each step
        return f"{_TRAINER_STATE}: {error}; to resume: {way_out()}" if is_whole else f"{_TRAINER_STATE} is incomplete"
    for part, beginnings in _PARTS.items():
        if not any(name.startswith(beginnings) for name in names):
            return f"{part} is missing"
    if ADAPTER_CONFIG not in names and any(name.startswith("adapter_model") for name in names):
        return f"the configuration of the adapter ({ADAPTER_CONFIG}) is missing"
    if _WHOLE_WEIGHTS[1] in names and (damage := _damage_of_index(checkpoint / _WHOLE_WEIGHTS[1], names)):
        return damage
    truncated = [name for name in names if _is_truncated(checkpoint / name)]
    return f"{', '.join(truncated)}: truncated" if truncated else None


def _damage_of_index(index: Path, names: list[str]) -> str | None:
    try:
        missing = sorted(shards_of(index) - set(names))
    except (OSError, ValueError):
        return f"{index.name} is incomplete"
    return f"{missing[0]} is missing" if missing else None


def _is_truncated(path: Path) -> bool:
    if path.suffix in (".pt", ".pth", ".bin") and path.is_file():
        try:
            ZipFile(path).close()  # the directory of a zip file is at the end of the file
        except (BadZipFile, OSError):
            return True
    if path.name in (ADAPTER_CONFIG, SETTINGS_FILE):
        return _is_truncated_json(path)
    return path.suffix == ".safetensors" and _is_truncated_safetensors(path)


def _is_truncated_json(path: Path) -> bool:
    try:
        return not isinstance(read_json(path), dict)
    except (OSError, ValueError):
        return True


def _is_truncated_safetensors(path: Path) -> bool:
    try:
        size = path.stat().st_size
        length, header = read_header(path)
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError):
        return True
    return size != LENGTH_BYTES + length + end
