"""What a machine has for a training: versions, devices, memory, room on disks, optional packages."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.versions import versions
from higgs_audio_trainer.weight_files import shards_of

#: Optional packages: the module, the name on the package index, the extra that brings the package ("" for none), and
#: what the package is for.
OPTIONAL = (
    ("bitsandbytes", "bitsandbytes", "qlora", "--load_in_4bit, --load_in_8bit, --optim adamw_bnb_8bit"),
    ("deepspeed", "deepspeed", "", "--deepspeed"),
    ("flash_attn", "flash-attn", "", "--attn_implementation flash_attention_2"),
    ("trackio", "trackio", "trackio", "--sinks trackio"),
    ("tensorboard", "tensorboard", "tensorboard", "--sinks tensorboard"),
    ("wandb", "wandb", "wandb", "--sinks wandb"),
    ("mlflow", "mlflow-skinny", "mlflow", "--sinks mlflow"),
    ("jiwer", "jiwer", "metrics", "--say_asr"),
)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def software() -> dict[str, str]:
    """Return the versions of Python, of this package and its libraries, and of optional packages."""
    found = versions()
    for _, package, _, _ in OPTIONAL[:3]:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def devices() -> list[dict[str, Any]]:
    """Return name, total and free memory in bytes, and support of bfloat16 of each device. Empty on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            has_bfloat16 = torch.cuda.is_bf16_supported()
        name = torch.cuda.get_device_name(index)
        found.append({"name": name, "total": total, "free": free, "bfloat16": has_bfloat16})
    return found


def check_device(name: str) -> None:
    """Check that torch can use a device.

    Raises:
        UserError: The name is unknown, or torch was built without such devices, or finds none.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"--device: expected a device that torch can use, got {name!r}: {first_line}") from error


def host() -> dict[str, Any]:
    """Return the CPU cores that this process may use, and the memory in bytes, total and available."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {"cores": cores, "total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found["available"] = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return {**found, "system": platform.platform(terse=True)}


def places(output_dir: str, codes_dir: str | None) -> dict[str, dict[str, Any]]:
    """Return the path and the free bytes of each folder that a training writes to, also of folders yet to be made."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from higgs_audio_trainer.training.prepare_manifests import default_codes_dir

    folders = {"model cache": HF_HUB_CACHE, "output": output_dir, "log": os.path.join(output_dir, "events")}  # noqa: PTH118
    try:
        folders["codes"] = codes_dir or str(default_codes_dir())
    except UserError as error:  # no home folder
        return {**{name: _room(path) for name, path in folders.items()}, "codes": {"path": None, "error": str(error)}}
    return {name: _room(path) for name, path in folders.items()}


def _room(path: str) -> dict[str, Any]:
    whole = Path(path).absolute()
    there = next((folder for folder in (whole, *whole.parents) if folder.is_dir()), Path("/"))
    try:
        found: dict[str, Any] = {"path": str(whole), "free": shutil.disk_usage(there).free}
    except OSError as error:
        return {"path": str(whole), "error": one_line(error)}
    if not os.access(there, os.W_OK):
        found["error"] = f"{there} cannot be written to"
    return found


def base_checkpoint(name: str) -> str:
    """Return where a base checkpoint is: in a folder, cached in whole or in part, or yet to be downloaded.

    Asks no network.
    """
    if Path(name).is_dir():
        return "folder" if (Path(name) / "config.json").is_file() else "folder without config.json"
    from huggingface_hub.errors import HFValidationError

    try:
        if _cached(name, _WEIGHTS):
            return "cached"
        index = _cached(name, _INDEX)
    except HFValidationError:  # neither a folder nor a name on the Hub
        return "not found"
    if index is None:
        return "to be downloaded"
    try:
        files = shards_of(Path(index))
    except (OSError, ValueError):
        return "cached, but its index is damaged"
    return "cached" if all(_cached(name, file) for file in files) else "cached in part, the rest is to be downloaded"


def _cached(name: str, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return found if isinstance(found, str) else None


def optional_packages() -> list[dict[str, Any]]:
    """Return name and use of each optional package, whether installed, and else the command that installs it."""
    return [
        {
            "name": package,
            "for": use,
            "installed": find_spec(module) is not None,
            "install": f"pip install 'higgs-audio-trainer[{extra}]'" if extra else f"pip install {package}",
        }
        for module, package, extra, use in OPTIONAL
    ]
