"""Imports of the server of `forks.py`. The garbage collectors of the server's children skip the imported objects."""

import gc

gc.disable()

from higgs_audio_trainer.third_party_imports import prepare_imports  # noqa: E402

prepare_imports()

import sinks.terminal.phase_lines  # noqa: E402
import tests.record_training  # noqa: E402, F401

sinks.terminal.phase_lines.PATIENCE_S = 3_600.0  # as in `conftest.py`

gc.freeze()
gc.enable()
