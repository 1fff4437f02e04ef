"""Configuration and tokenizer of the base checkpoint, checked before the weights are loaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.config import DEFAULT_AUDIO_TOKENIZER
from higgs_audio_trainer.data.batch import TokenIds, Vocabulary
from higgs_audio_trainer.data.prompt import (
    AUDIO_PLACEHOLDER,
    OPTIONAL_TOKENS,
    REQUIRED_TOKENS,
    STOP_TOKENS,
    as_messages,
    render_text,
)
from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from transformers import HiggsAudioV2Config, PreTrainedTokenizerBase

NATIVE_MODEL_TYPE, BOSON_MODEL_TYPE = "higgs_audio_v2", "higgs_audio"
_FINGERPRINT_BLOCKS, _BLOCK_BYTES = 64, 4096
DELAY_TOKEN = "<|reserved_special_token_6|>"  # noqa: S105 - the name of a token, no secret


@dataclass(frozen=True, slots=True)
class BaseCheckpoint:
    """Configuration, tokenizer and special token ids of a base checkpoint."""

    name: str
    config: HiggsAudioV2Config
    tokenizer: PreTrainedTokenizerBase
    ids: TokenIds
    text_stop_ids: tuple[int, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """Special token ids: stop tokens, stream BOS and EOS, placeholders."""
        placeholders = (self.ids.audio, self.ids.audio_delay)
        return Vocabulary(self.text_stop_ids, self.ids.stream_bos, self.ids.stream_eos, placeholders)


def open_checkpoint(name: str) -> BaseCheckpoint:
    """Read configuration and tokenizer of a base checkpoint.

    Args:
        name: Folder, or name on the Hugging Face Hub.

    Raises:
        UserError: The checkpoint is missing, in Boson's original layout, of another model, or inconsistent.
    """
    config = _open_config(name)
    tokenizer = _open_tokenizer(name)
    vocabulary = tokenizer.get_vocab()
    _check_vocabulary(name, vocabulary, config)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.pad_token_id
    return BaseCheckpoint(
        name,
        config,
        tokenizer,
        TokenIds(
            pad=int(pad or 0),
            audio=config.audio_token_id,
            audio_delay=config.audio_delay_token_id,
            stream_bos=config.audio_stream_bos_id,
            stream_eos=config.audio_stream_eos_id,
            num_codebooks=config.num_codebooks,
        ),
        tuple(vocabulary[token] for token in STOP_TOKENS if token in vocabulary),
    )


def fingerprint_of(name: str) -> str | None:
    """Return a fingerprint of the weights of a base checkpoint, wherever the folder lies and whatever its name.

    The function reads the headers and some blocks of each file, since a base checkpoint has gigabytes.

    Args:
        name: Folder, or name on the Hugging Face Hub.

    Returns:
        16 hexadecimal digits. None if no file of weights is found.
    """
    from transformers.utils.hub import cached_file

    try:
        config = cached_file(name, "config.json")
    except OSError:  # `open_checkpoint` reports a checkpoint that is missing
        return None
    files = sorted(Path(config).parent.glob("*.safetensors")) if config else []
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8))
        with path.open("rb") as file:
            for block in range(_FINGERPRINT_BLOCKS):
                file.seek(block * max(0, size - _BLOCK_BYTES) // (_FINGERPRINT_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16] if files else None


def _open_config(name: str) -> HiggsAudioV2Config:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import HiggsAudioV2Config

    raw = read_config(name, "--base_ckpt")
    kind = raw.get("model_type")
    if kind == BOSON_MODEL_TYPE:
        raise UserError(
            f"--base_ckpt {name}: expected model_type {NATIVE_MODEL_TYPE}, got {kind}: this is Boson's original "
            "layout. Use a checkpoint in the native layout of transformers, or convert this one with the script in "
            "transformers' repository: src/transformers/models/higgs_audio_v2/convert_higgs_audio_v2_to_hf.py"
        )
    if kind != NATIVE_MODEL_TYPE:
        raise UserError(f"--base_ckpt {name}: expected model_type {NATIVE_MODEL_TYPE}, got {kind!r}")
    try:
        config = HiggsAudioV2Config.from_dict(raw)
    except StrictDataclassError as error:
        raise UserError(f"--base_ckpt {name}: expected a valid config.json, got: {_one_line(error)}") from error
    highest = max(config.audio_stream_bos_id, config.audio_stream_eos_id)
    if config.codebook_size <= highest:
        raise UserError(
            f"--base_ckpt {name}: expected codebook_size of at least {highest + 1}, to hold stream BOS "
            f"{config.audio_stream_bos_id} and EOS {config.audio_stream_eos_id}, got {config.codebook_size}"
        )
    return config


def read_config(name: str, flag: str) -> dict[str, Any]:
    """Return the config.json of a model.

    Args:
        name: Folder of the model, or its name on the Hugging Face Hub.
        flag: Flag that names the model, for messages.

    Raises:
        UserError: There is no config.json, or the Hub cannot be reached.
    """
    from transformers import PreTrainedConfig

    raw: Any = None
    cause: Exception | None = None
    try:
        raw, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        cause = error
    if not isinstance(raw, dict) or not raw:  # an empty folder gives an empty dictionary
        raise UserError(
            f"{flag}: expected a folder with a config.json or a name on the Hugging Face Hub, got {name!r}, which "
            "has no config.json or cannot be fetched. Check the path, or the network."
        ) from cause
    return raw


def _open_tokenizer(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--base_ckpt {name}: expected a tokenizer beside the model, got an error: {_one_line(error)}"
        ) from error
    return tokenizer


def _check_vocabulary(name: str, vocabulary: Mapping[str, int], config: HiggsAudioV2Config) -> None:
    if missing := [token for token in REQUIRED_TOKENS if token not in vocabulary]:
        raise UserError(f"--base_ckpt {name}: expected a tokenizer with the tokens of Higgs, got one without {missing}")
    for token, token_id in ((AUDIO_PLACEHOLDER, config.audio_token_id), (DELAY_TOKEN, config.audio_delay_token_id)):
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def codec_of(name: str) -> str:
    """Return the codec named in a base checkpoint's processor_config.json, or else the default codec."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        name,
        "processor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return DEFAULT_AUDIO_TOKENIZER
    try:
        entry = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise UserError(f"--base_ckpt {name}: expected JSON in processor_config.json, got: {error}") from error
    codec = entry.get("audio_tokenizer") if isinstance(entry, dict) else None
    codec_name = codec.get("audio_tokenizer_name_or_path") if isinstance(codec, dict) else None
    return str(codec_name or DEFAULT_AUDIO_TOKENIZER)


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
            f"{_one_line(error)}"
        ) from error
    ours = render_text(sample)
    if rendered != ours:
        at = len(os.path.commonprefix([rendered, ours]))  # noqa: RUF071 - character by character is what is wanted
        raise UserError(
            f"--base_ckpt {checkpoint.name}: expected its chat template to render {ours[at : at + 40]!r} at character "
            f"{at} of sample {sample.id!r}, got {rendered[at : at + 40]!r}. This trainer writes the prompt of Higgs "
            "Audio v2's native checkpoint, and generation uses the chat template: both must be the same."
        )
