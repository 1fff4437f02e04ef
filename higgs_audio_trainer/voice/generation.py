"""Generation of speech by transformers' own `generate`, on the native class or on the class for training.

Shape suffixes: B prompts, S positions, F frames of an audio stream, K codebooks, T codec frames.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from higgs_audio_trainer.data.batch import Ints, TokenIds
from higgs_audio_trainer.data.delay import only_codes
from higgs_audio_trainer.voice.speech_prompt import SpeechPrompt

_NEVER = 2**31  # repeats of a code after which it is drawn at random. None would be filled in from the checkpoint


@dataclass(frozen=True, slots=True)
class Decoding:
    """Choice of codes.

    Attributes:
        temperature: Divisor of the logits. 0 takes the most likely code.
        top_p: Probability of the most likely codes that are kept.
        top_k: Number of the most likely codes that are kept. 0 keeps all.
        seed: Seed of the random generators.
        max_frames: Codec frames after which an utterance ends.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_frames: int = 500


class Speech(NamedTuple):
    """What a model said.

    Attributes:
        codes_KT: Codes, int64 [K, T].
        stopped: True if the model ended the speech, False if the limit did.
    """

    codes_KT: Ints
    stopped: bool


def speak(
    model: Any,
    prompts: Sequence[SpeechPrompt],
    decoding: Decoding,
    ids: TokenIds,
    *,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> list[Speech]:
    """Speak prompts with the current weights of a model, as one batch.

    Modes of modules, gradients and random generators are the same afterwards.

    Args:
        model: Model, perhaps with adapters.
        prompts: Prompts, at least one.
        decoding: Choice of codes.
        ids: Token ids of the checkpoint.
        is_asked_to_stop: Asked at each frame. True ends the speech, as the limit would.
    """
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in _batch(prompts, ids).items()}
    before = inputs["audio_input_ids"].shape[1] if "audio_input_ids" in inputs else 0
    with undisturbed(model, decoding.seed), torch.no_grad():  # a cache from an inference mode would break the training
        streams_BFK: Tensor = model.generate(
            **inputs,
            generation_config=_configuration(model, decoding),
            max_new_tokens=decoding.max_frames + ids.num_codebooks + 1,  # with the delay, and the frame of the end
            stopping_criteria=StoppingCriteriaList([_Asked(is_asked_to_stop)]),
        )
    spoken = [speech_of(stream_FK, ids) for stream_FK in streams_BFK[:, before:].cpu().numpy()]
    return [Speech(speech.codes_KT[:, : decoding.max_frames], speech.stopped) for speech in spoken]


class _Asked(StoppingCriteria):
    """Ends a generation on request."""

    def __init__(self, is_asked_to_stop: Callable[[], bool]) -> None:
        self._is_asked_to_stop = is_asked_to_stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - of the base class
        return torch.full((len(input_ids),), self._is_asked_to_stop(), device=input_ids.device)


def speech_of(stream_FK: Ints, ids: TokenIds) -> Speech:
    """Return the codes of a generated audio stream.

    The speech ends where all codebooks have the stream EOS. Without such a frame, all frames count that have a code of
    each codebook. In place of a stream BOS or EOS amid the codes, the code before is repeated.

    Args:
        stream_FK: Generated frames, int64 [F, K], the frame of stream BOS first.
        ids: Token ids of the checkpoint.
    """
    num_codebooks = stream_FK.shape[1]
    ends = np.flatnonzero((stream_FK == ids.stream_eos).all(axis=1))
    stopped = len(ends) > 0
    num_frames = int(ends[0]) - num_codebooks if stopped else len(stream_FK) - num_codebooks
    first = np.flatnonzero(stream_FK[:, 0] == ids.stream_eos)
    if len(first):
        num_frames = min(num_frames, int(first[0]) - 1)
    num_frames = max(0, num_frames)
    codes_KT = np.stack([stream_FK[k + 1 : k + 1 + num_frames, k] for k in range(num_codebooks)]).astype(np.int64)
    return Speech(only_codes(codes_KT, min(ids.stream_bos, ids.stream_eos)), stopped)


def _batch(prompts: Sequence[SpeechPrompt], ids: TokenIds) -> dict[str, Tensor]:
    """Return the inputs of `generate`: tokens padded on the left, reference frames on the right."""
    examples = [prompt.inputs for prompt in prompts]
    length = max(len(example.input_ids) for example in examples)
    num_frames = max(len(example.audio_ids_FK) for example in examples)
    tokens = np.full((len(examples), length), ids.pad, dtype=np.int64)
    mask = np.zeros((len(examples), length), dtype=np.int64)
    frames = np.full((len(examples), num_frames, ids.num_codebooks), ids.stream_eos, dtype=np.int64)
    frames_mask = np.zeros((len(examples), num_frames), dtype=np.bool_)
    for row, example in enumerate(examples):
        tokens[row, length - len(example.input_ids) :] = example.input_ids
        mask[row, length - len(example.input_ids) :] = 1
        frames[row, : len(example.audio_ids_FK)] = example.audio_ids_FK
        frames_mask[row, : len(example.audio_ids_FK)] = True
    inputs: dict[str, npt.NDArray[Any]] = {"input_ids": tokens, "attention_mask": mask}
    if num_frames:
        inputs |= {"audio_input_ids": frames, "audio_input_ids_mask": frames_mask}
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _configuration(model: Any, decoding: Decoding) -> Any:
    """Return the checkpoint's configuration of `generate` with our choice of codes."""
    configuration = copy.deepcopy(model.generation_config)
    configuration.do_sample = decoding.temperature > 0
    configuration.temperature = decoding.temperature or None
    configuration.top_p = decoding.top_p if decoding.temperature > 0 else None
    configuration.top_k = decoding.top_k if decoding.temperature > 0 else None
    configuration.max_length = None
    if decoding.temperature == 0:
        configuration.ras_win_max_num_repeat = _NEVER
    return configuration


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
