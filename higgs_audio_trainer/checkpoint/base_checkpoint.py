"""The base checkpoint, opened by its family before the weights are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.config import DEFAULT_AUDIO_TOKENIZER
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.families.family import BaseCheckpoint, Family
from higgs_audio_trainer.families.known import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BOSON_MODEL_TYPE = "higgs_audio"  # v2 in the layout of its authors
_FINGERPRINT_BLOCKS, _BLOCK_BYTES = 64, 4096


def open_checkpoint(name: str) -> BaseCheckpoint:
    """Read configuration and tokenizer of a base checkpoint.

    Args:
        name: Folder, or name on the Hugging Face Hub.

    Raises:
        UserError: The checkpoint is missing, in Boson's original layout of v2, of another model, or inconsistent.
    """
    raw = read_config(name, "--base_ckpt")
    return _family_of(name, raw).open(name, raw, _open_tokenizer(name))


def open_config(name: str) -> tuple[Family, Any]:
    """Return family and configuration of a base checkpoint, of which only config.json is read.

    Args:
        name: Folder, or name on the Hugging Face Hub. The sizes of published checkpoints are known without a network.

    Raises:
        UserError: There is no config.json, the Hub cannot be reached, or the model is another or inconsistent.
    """
    published = next((family.published_config for family in FAMILIES.values() if family.published == name), None)
    raw = read_config(name, "--base_ckpt") if published is None else dict(published)
    family = _family_of(name, raw)
    return family, family.read_config(name, raw)


def _family_of(name: str, raw: Mapping[str, Any]) -> Family:
    kind = raw.get("model_type")
    if kind == _BOSON_MODEL_TYPE:
        raise UserError(
            f"--base_ckpt {name}: expected model_type higgs_audio_v2, got {kind}: this is Boson's original "
            "layout. Use a checkpoint in the native layout of transformers, or convert this one with the script in "
            "transformers' repository: src/transformers/models/higgs_audio_v2/convert_higgs_audio_v2_to_hf.py"
        )
    family = next((family for family in FAMILIES.values() if family.model_type == kind), None)
    if family is None:
        known = " or ".join(family.model_type for family in FAMILIES.values())
        raise UserError(f"--base_ckpt {name}: expected model_type {known}, got {kind!r}")
    return family


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
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name,
            trust_remote_code=False,  # no code of a checkpoint is run, and nobody is asked
        )
    except StrictDataclassError as error:  # config.json tells the class of the tokenizer
        raise UserError(f"--base_ckpt {name}: expected a valid config.json, got: {one_line(error)}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--base_ckpt {name}: expected a tokenizer beside the model, got an error: {one_line(error)}"
        ) from error
    return tokenizer


def codec_of(name: str) -> str:
    """Return the codec that a base checkpoint names in processor_config.json or config.json, or the default codec.

    Args:
        name: Folder, or name on the Hugging Face Hub.

    Raises:
        UserError: One of the files is no JSON.
    """
    processor = _read_json(name, "processor_config.json").get("audio_tokenizer")
    named = processor.get("audio_tokenizer_name_or_path") if isinstance(processor, dict) else None
    return str(named or _read_json(name, "config.json").get("audio_tokenizer_id") or DEFAULT_AUDIO_TOKENIZER)


def _read_json(name: str, file: str) -> dict[str, Any]:
    """Return the object in a file of a checkpoint. Empty if there is none."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return {}
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise UserError(f"--base_ckpt {name}: expected JSON in {file}, got: {error}") from error
    return content if isinstance(content, dict) else {}
