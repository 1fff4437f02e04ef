"""The base checkpoint, opened by its family before the weights are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.config import DEFAULT_AUDIO_TOKENIZER
from higgs_audio_trainer.documents import read_json, shown
from higgs_audio_trainer.errors import UserError, of_library, one_line
from higgs_audio_trainer.families.family import BaseCheckpoint, Family
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.hub import hub_error, is_folder, reach
from higgs_audio_trainer.phases import phase

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
    with phase(f"opening {name}"):
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
    with phase("hashing the base checkpoint") as hashing:
        for number, path in enumerate(files, start=1):
            hashing.detail = f"file {number} of {len(files)}"
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
        UserError: config.json is missing or holds no JSON object, or the Hub cannot be reached.
    """
    from transformers import PreTrainedConfig

    reach(name, flag)
    try:
        path = find_config(name)
        if path is None:
            below = _model_below(name)
            hint = f"Name {below}" if below else "Name the folder of the model itself, or download the model again"
            raise UserError(f"{flag} {name}: expected a config.json, got none. {hint}.")
        content = read_json(path)
        if not isinstance(content, dict) or not content:
            got = f"{type(content).__name__} {shown(content)}"
            raise UserError(
                f"{path}: expected the configuration of a model, got {got}. Download or copy the file again."
            )
        return dict(PreTrainedConfig.get_config_dict(name)[0])
    except OSError as error:
        raise hub_error(error, flag, name) or UserError(f"{flag} {name}: {one_line(error)}. Check the path.") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got: {one_line(error)}. Download or copy the file again.") from error


def _model_below(name: str) -> Path | None:
    """Return a folder with a config.json inside of a folder, of a known model if there is one."""
    folders = sorted(found.parent for found in Path(name).glob("*/config.json"))
    known = {family.model_type for family in FAMILIES.values()}
    models = (folder for folder in folders if _read_json(str(folder), "config.json").get("model_type") in known)
    return next(models, next(iter(folders), None))


def find_config(name: str) -> Path | None:
    """Return the config.json of a model, downloaded if the model is on the Hub. None if there is no such file."""
    from transformers.utils.hub import cached_file

    if is_folder(name):
        path = Path(name) / "config.json"
        return path if path.exists() else None
    found = cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False)
    return Path(found) if found is not None else None


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
    except Exception as error:  # libraries raise any class for a damaged file
        raise hub_error(error, "--base_ckpt", name) or UserError(
            f"--base_ckpt {name}: expected a tokenizer beside the model, got an error: {of_library(error)}"
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
        content = read_json(Path(path))
    except (OSError, ValueError) as error:
        raise UserError(f"--base_ckpt {name}: expected JSON in {file}, got: {error}") from error
    return content if isinstance(content, dict) else {}
