"""Versions of the software that determines the result of a training."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl", "structlog", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the installed libraries.

    Example:
        >>> sorted(versions())[:2]
        ['accelerate', 'higgs_audio_trainer']
    """
    found = {"higgs_audio_trainer": version("higgs-audio-trainer"), "python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
