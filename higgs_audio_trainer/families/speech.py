"""What speech takes and gives: prompts, a choice of codes, and codes.

Shape suffixes: B prompts, S positions, F frames of an audio stream, K codebooks, T codec frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.data.batch import Example, Ints, TokenIds


@dataclass(frozen=True, slots=True)
class SpeechPrompt:
    """A prompt that ends where speech begins.

    Attributes:
        id: Name of the prompt.
        text: Text to speak.
        inputs: Tokens and reference clips of the prompt.
        label_KT: Codes of the recording of the text, int64 [K, T]. None without a recording.
        voice_KT: Codes of a recording of the voice, int64 [K, T]: the first reference, or else the recording of the
            text. None without both.
    """

    id: str
    text: str
    inputs: Example
    label_KT: Ints | None = None
    voice_KT: Ints | None = None


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


def padded_prompts(prompts: Sequence[SpeechPrompt], ids: TokenIds) -> dict[str, Tensor]:
    """Return prompts as one batch: tokens padded on the left, reference frames on the right.

    Returns:
        `input_ids` and `attention_mask` [B, S]; with references also `audio_input_ids` [B, F, K] and
        `audio_input_ids_mask` [B, F].
    """
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
