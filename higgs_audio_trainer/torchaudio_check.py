"""A torchaudio that is installed and does not load, hidden from the libraries of this process.

transformers imports torchaudio wherever the package is installed, and peft and accelerate import transformers. A
torchaudio that was built for another torch fails at import, and would end every command that imports one of them,
although no command needs torchaudio.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_NAME = "torchaudio"


def hide_broken_torchaudio() -> None:
    """Make an installed torchaudio that cannot be imported look like none. Call before an import of transformers.

    Afterwards `import torchaudio` raises ModuleNotFoundError in this process, and `importlib.util.find_spec` finds no
    torchaudio. A torchaudio that loads stays as it is, and a process without torchaudio is left alone.

    Example:
        >>> hide_broken_torchaudio()
    """
    if _NAME in sys.modules or find_spec(_NAME) is None:
        return
    before = set(sys.modules)
    try:
        _ = import_module(_NAME).functional.resample  # a package that was half removed has no functions
    except Exception:  # noqa: BLE001 - a library that was compiled for another torch fails in any way
        for name in set(sys.modules) - before:
            if name.startswith(f"{_NAME}."):
                del sys.modules[name]
        modules: dict[str, Any] = sys.modules
        modules[_NAME] = None  # Python's mark of a module that must not be imported
        _forget_answers()


def _forget_answers() -> None:
    """Make an imported transformers look for torchaudio again."""
    loaded = sys.modules.get("transformers.utils.import_utils")
    for name in ("is_torchaudio_available", "is_speech_available"):
        forget = getattr(getattr(loaded, name, None), "cache_clear", None)
        if forget is not None:
            forget()
