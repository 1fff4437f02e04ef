"""Imports of the server of `forks.py`. The garbage collectors of the server's children skip the imported objects."""

import gc

gc.disable()

from higgs_audio_trainer.third_party_imports import prepare_imports  # noqa: E402

prepare_imports()

import tests.record_training  # noqa: E402, F401

gc.freeze()
gc.enable()
