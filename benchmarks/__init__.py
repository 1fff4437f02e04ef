"""Measured costs of every part of the project. No test asserts a timing."""

from higgs_audio_trainer.third_party_imports import prepare_imports

prepare_imports()
