"""Versions of the software that determines the result of a training."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

#: Libraries for data sets, downloads and quantization, which `--version` prints too.
_MORE_LIBRARIES = ("datasets", "huggingface_hub", "bitsandbytes")
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl", "structlog", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python, and of this package and the libraries as far as they are installed.

    Example:
        >>> sorted(versions())[:2]
        ['accelerate', 'higgs_audio_trainer']
    """
    found = {}
    for name in ("higgs_audio_trainer", "python", *_LIBRARIES):
        with suppress(PackageNotFoundError):  # also this package, in a checkout on the PYTHONPATH
            found[name] = platform.python_version() if name == "python" else version(name)
    return found


def version_lines() -> Iterator[str]:
    """Yield a line for this package, Python and each library that matters, without an import of a library.

    Example:
        >>> next(version_lines()).split()[0]
        'higgs-audio-trainer'
    """
    found = versions()
    for name in _MORE_LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    yield f"higgs-audio-trainer {found.pop('higgs_audio_trainer', 'not installed')}"
    for name, number in found.items():
        yield f"{name} {number}{_platform_of_torch() if name == 'torch' else ''}"


def _platform_of_torch() -> str:
    """Return the platform of the installed torch, as torch/version.py names the platform. Empty without the file."""
    try:
        text = Path(str(distribution("torch").locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except OSError:
        return ""
    for platform_name, label in (("cuda", "CUDA"), ("hip", "ROCm"), ("xpu", "XPU")):
        if built := re.search(rf"^{platform_name}\b[^=\n]*= *'([^']+)'", text, re.MULTILINE):
            return f", built for {label} {built[1]}"
    return ", built for the CPU"
