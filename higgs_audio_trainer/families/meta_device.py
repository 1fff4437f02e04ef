"""Models on the meta device, which take no memory for their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from higgs_audio_trainer.errors import UserError

Model = TypeVar("Model")


def on_meta(build: Callable[[], Model]) -> Model:
    """Build a model on the meta device.

    Raises:
        UserError: The sizes in the configuration fit no model.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:  # torch raises any class for sizes of a damaged file
        got = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"  # a trace of C++ may follow
        raise UserError(f"--base_ckpt: expected a config.json of a model, got {got}") from error
