"""The matrix of tests: what every family of models must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.known import FAMILIES

#: Runs a test with the tiny checkpoint of each family.
every_family = pytest.mark.parametrize("tiny", list(FAMILIES), indirect=True)
#: Runs a test with the name of each family.
every_family_by_name = pytest.mark.parametrize("family", list(FAMILIES))


def training_model(checkpoint: BaseCheckpoint, *, attention: str | None = None) -> Any:
    """Return the model of a checkpoint for training, float32."""
    return checkpoint.family.for_training(checkpoint.name, dtype=torch.float32, attention=attention)
