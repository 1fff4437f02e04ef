"""Random models and samples of a requested size, and the settings of a measured training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from transformers import HiggsAudioV2Config, TrainingArguments

from higgs_audio_trainer.config import LORA_TARGETS
from higgs_audio_trainer.data.batch import Example, PreparedSample, TokenIds, Vocabulary, build_example
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.training.model import add_adapters

MARKERS = (128_013, 128_012, 128_009)  # begin of audio, end of audio, end of turn


def published_config(family: str) -> Any:
    """Return the configuration of the published checkpoint of a family.

    Example:
        >>> published_config("higgs-audio-v2").num_hidden_layers
        28
    """
    kind = FAMILIES[family]
    return kind.read_config(kind.published, kind.published_config)


def token_ids(config: HiggsAudioV2Config) -> TokenIds:
    """Return the token ids of a batch for a model with the real vocabulary.

    Example:
        >>> token_ids(HiggsAudioV2Config()).audio
        128016
    """
    return TokenIds(128_001, config.audio_token_id, config.audio_delay_token_id, 1024, 1025, config.num_codebooks)


def vocabulary_of(ids: TokenIds, end_of_turn: int = MARKERS[-1]) -> Vocabulary:
    """Return the token ids of the end of a turn, of both ends of a stream, and of audio placeholders."""
    return Vocabulary((end_of_turn,), ids.stream_bos, ids.stream_eos, (ids.audio, ids.audio_delay))


def random_example(
    ids: TokenIds, *, prompt: int, frames: int, seed: int, markers: tuple[int, int, int] = MARKERS
) -> Example:
    """Return a sample of a random prompt and a supervised clip of random codes.

    Args:
        ids: Token ids of the checkpoint.
        prompt: Number of prompt tokens.
        frames: Frames of the clip, T.
        seed: Seed of text and codes.
        markers: Token ids of begin of audio, end of audio and end of turn. Prompt tokens are smaller.

    Example:
        >>> example = random_example(token_ids(HiggsAudioV2Config()), prompt=60, frames=440, seed=0)
        >>> len(example.input_ids)
        512
    """
    numbers = np.random.default_rng(seed)
    begin, *end = markers
    segments = (
        TokenSegment(numbers.integers(0, min(markers), prompt), supervised=False),
        TokenSegment(np.array([begin]), supervised=True),
        TokenSegment(None, supervised=True),
        TokenSegment(np.array(end), supervised=True),
    )
    codes = numbers.integers(0, ids.stream_bos, (ids.num_codebooks, frames))
    return build_example(PreparedSample(f"random-{seed}", segments, ()), [codes], ids)


def tokens_around(codebooks: int) -> int:
    """Return the number of tokens of a random sample beside prompt and clip (markers and delay pattern).

    Example:
        >>> 512 - 60 - tokens_around(codebooks=8)  # frames of a full sequence after a prompt
        440
    """
    return len(MARKERS) + num_stream_frames(0, codebooks)


def random_model(kind: Any, config: Any, device: str) -> Any:
    """Return a model of a class with random bfloat16 weights, allocated directly on the device."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return kind(config)
    finally:
        torch.set_default_dtype(torch.float32)


def add_lora(
    model: Any, *, r: int, alpha: int, dropout: float, targets: Sequence[str] | None = None, **further: Any
) -> Any:
    """Freeze a model and add LoRA adapters.

    Args:
        model: Base model of a family.
        r: Rank of the adapters.
        alpha: Numerator of the adapters' scale, alpha / r.
        dropout: Probability of dropout before each adapter.
        targets: Names of linear modules, or their ends from a dot on. None for the trainer's default.
        **further: Further fields of peft's `LoraConfig`.
    """
    modules = LORA_TARGETS.split(",") if targets is None else list(targets)
    return add_adapters(
        model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, **further)
    )


def training_arguments(folder: str | Path, **settings: Any) -> TrainingArguments:
    """Return arguments of a training without checkpoints and without output.

    Args:
        folder: Output directory.
        settings: Further arguments, such as `max_steps`.
    """
    return TrainingArguments(
        str(folder),
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **settings,
    )


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of threads of torch in the block and restore the previous number afterwards.

    Example:
        >>> with torch_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
