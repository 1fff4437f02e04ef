"""What must happen in a process before an import of transformers, which imports many optional packages."""

from __future__ import annotations

import logging

from higgs_audio_trainer.torchaudio_check import hide_broken_torchaudio


def prepare_imports() -> None:
    """Hide a torchaudio that cannot be imported, and silence a warning of bitsandbytes at its import.

    On some CPUs bitsandbytes asks for a package of the Hub's kernels, which no training here uses.

    Example:
        >>> prepare_imports()
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    hide_broken_torchaudio()
