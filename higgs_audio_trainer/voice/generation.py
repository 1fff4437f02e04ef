"""Speech of a model: prompts in, codes out, and the model and the random generators as before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.speech import Decoding, Speech, SpeechPrompt
from higgs_audio_trainer.phases import tell


def speak(
    model: Any,
    prompts: Sequence[SpeechPrompt],
    decoding: Decoding,
    checkpoint: BaseCheckpoint,
    *,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> list[Speech]:
    """Speak prompts with the current weights of a model, as one batch.

    Modes of modules, gradients and random generators are the same afterwards.

    Args:
        model: Model, perhaps with adapters.
        prompts: Prompts, at least one.
        decoding: Choice of codes.
        checkpoint: Base checkpoint of the model.
        is_asked_to_stop: Asked at each frame. True ends the speech, as the limit would.
    """
    frames = count(1)

    def is_asked() -> bool:
        tell(f"frame {min(next(frames), decoding.max_frames)} of at most {decoding.max_frames}")  # the delay adds some
        return is_asked_to_stop()

    with undisturbed(model, decoding.seed), torch.no_grad():  # a cache from an inference mode would break the training
        spoken = checkpoint.family.generate(model, prompts, decoding, checkpoint.ids, is_asked)
    return [Speech(speech.codes_KT[:, : decoding.max_frames], speech.stopped) for speech in spoken]


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Set a model to evaluation, without compiled code, and seed the random generators, and restore all.

    Args:
        model: Model.
        seed: Seed of the random generators.
    """
    modes = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - libraries use the global generator
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng([device.index for device in devices]), torch.compiler.set_stance("force_eager"):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            model.eval()
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, mode in modes.items():
            module.training = mode
