"""Versions of the software that determines the result of a training."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

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
