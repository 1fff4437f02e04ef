"""Speech of Higgs Audio v2 by transformers' own `generate`, on the native class or on the class for training.

Shape suffixes: F frames of an audio stream, K codebooks, T codec frames.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from higgs_audio_trainer.data.batch import Ints, TokenIds
from higgs_audio_trainer.data.delay import only_codes
from higgs_audio_trainer.families.speech import Decoding, Speech, SpeechPrompt, padded_prompts

_NEVER = 2**31  # repeats of a code after which it is drawn at random. None would be filled in from the checkpoint


def generate(
    model: Any,
    prompts: Sequence[SpeechPrompt],
    decoding: Decoding,
    ids: TokenIds,
    is_asked_to_stop: Callable[[], bool],
) -> list[Speech]:
    """Speak prompts, see `Family.generate`."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in padded_prompts(prompts, ids).items()}
    before = inputs["audio_input_ids"].shape[1] if "audio_input_ids" in inputs else 0
    streams_BFK: Tensor = model.generate(
        **inputs,
        generation_config=_configuration(model, decoding),
        max_new_tokens=decoding.max_frames + ids.num_codebooks + 1,  # with the delay, and the frame of the end
        stopping_criteria=StoppingCriteriaList([_Asked(is_asked_to_stop)]),
    )
    return [speech_of(stream_FK, ids) for stream_FK in streams_BFK[:, before:].cpu().numpy()]


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
