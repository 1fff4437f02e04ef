"""Base checkpoints of Higgs Audio v2: configuration, vocabulary and chat template, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.errors import UserError, of_library, one_line
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.v2.prompt import (
    AUDIO_PLACEHOLDER,
    OPTIONAL_TOKENS,
    REQUIRED_TOKENS,
    as_messages,
    render_text,
)

if TYPE_CHECKING:
    from transformers import HiggsAudioV2Config

_DELAY_TOKEN = "<|reserved_special_token_6|>"  # noqa: S105 - the name of a token, no secret


def read_config(name: str, raw: Mapping[str, Any]) -> HiggsAudioV2Config:
    """Return the configuration of a checkpoint.

    Args:
        name: Name of the checkpoint, for messages.
        raw: Content of config.json.

    Raises:
        UserError: The configuration is inconsistent.
    """
    from transformers import HiggsAudioV2Config

    try:
        config = HiggsAudioV2Config.from_dict(dict(raw))
    except Exception as error:  # libraries raise any class for a damaged file
        raise UserError(f"--base_ckpt {name}: expected a valid config.json, got: {of_library(error)}") from error
    highest = max(config.audio_stream_bos_id, config.audio_stream_eos_id)
    if config.codebook_size <= highest:
        raise UserError(
            f"--base_ckpt {name}: expected codebook_size of at least {highest + 1}, to hold stream BOS "
            f"{config.audio_stream_bos_id} and EOS {config.audio_stream_eos_id}, got {config.codebook_size}"
        )
    return config


def check_vocabulary(name: str, vocabulary: Mapping[str, int], config: HiggsAudioV2Config) -> None:
    """Check that a tokenizer has the tokens of Higgs Audio v2, and that config.json means the same tokens.

    Raises:
        UserError: A token is missing, or has another id.
    """
    if missing := [token for token in REQUIRED_TOKENS if token not in vocabulary]:
        raise UserError(f"--base_ckpt {name}: expected a tokenizer with the tokens of Higgs, got one without {missing}")
    for token, token_id in ((AUDIO_PLACEHOLDER, config.audio_token_id), (_DELAY_TOKEN, config.audio_delay_token_id)):
        if (found := vocabulary.get(token, token_id)) != token_id:
            raise UserError(
                f"--base_ckpt {name}: expected {token} to be token {token_id}, as config.json says, got {found} from "
                "the tokenizer. Tokenizer and model belong to different checkpoints."
            )
    highest = max(*vocabulary.values(), config.audio_token_id, config.audio_delay_token_id)
    if highest >= config.vocab_size:
        raise UserError(
            f"--base_ckpt {name}: expected token ids below {config.vocab_size}, the vocab_size of config.json, got "
            f"{highest}. Tokenizer and model belong to different checkpoints."
        )


def check_template(checkpoint: BaseCheckpoint, samples: Sequence[Sample]) -> None:
    """Check that the prompts of the training are the prompts of the checkpoint's chat template.

    One sample of each sequence of roles is rendered both ways and compared. Markers of optional parts must be tokens
    of the tokenizer.

    Raises:
        UserError: The prompts differ, so generation would use another prompt than the training.
    """
    vocabulary = checkpoint.tokenizer.get_vocab()
    missing = [token for token in OPTIONAL_TOKENS if token not in vocabulary]
    shapes: dict[tuple[tuple[str, int], ...], tuple[Sample, list[dict[str, Any]]]] = {}
    for sample in samples:
        used = [token for token in missing if token in render_text(sample)] if missing else []
        if used:
            raise UserError(
                f"{sample.where}: expected a prompt of tokens that the tokenizer of {checkpoint.name} has, got "
                f"{', '.join(used)}"
            )
        if checkpoint.tokenizer.chat_template is not None and (messages := as_messages(sample)) is not None:
            shape = tuple((message["role"], len(message["content"])) for message in messages)
            shapes.setdefault(shape, (sample, messages))
    for sample, messages in shapes.values():
        _compare_with_template(checkpoint, sample, messages)


def _compare_with_template(checkpoint: BaseCheckpoint, sample: Sample, messages: list[dict[str, Any]]) -> None:
    from jinja2 import TemplateError

    try:
        rendered = str(checkpoint.tokenizer.apply_chat_template(messages, tokenize=False)).strip("\n")
    except (TemplateError, TypeError, ValueError) as error:  # a template may raise anything
        raise UserError(
            f"--base_ckpt {checkpoint.name}: expected a chat template that renders speech in assistant turns, got: "
            f"{one_line(error)}"
        ) from error
    ours = render_text(sample)
    if rendered != ours:
        at = len(os.path.commonprefix([rendered, ours]))  # noqa: RUF071 - character by character is what is wanted
        raise UserError(
            f"--base_ckpt {checkpoint.name}: expected its chat template to render {ours[at : at + 40]!r} at character "
            f"{at} of sample {sample.id!r}, got {rendered[at : at + 40]!r}. This trainer writes the prompt of Higgs "
            "Audio v2's native checkpoint, and generation uses the chat template: both must be the same."
        )
