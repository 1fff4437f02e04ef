"""Folders of saved weights: adapters that public packages load, and whole checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers.utils.hub import cached_file

from higgs_audio_trainer.checkpoint.processor_files import save_processor
from higgs_audio_trainer.documents import read_json
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG

_CONFIG, _WEIGHTS = "config.json", ("model*.safetensors", "model.safetensors.index.json")
_FINISHING = ".whole"  # folder beside the weights, while they are written


def complete_adapter(folder: Path, *, mapping: Mapping[str, str] | None) -> None:
    """Name the public class and the place of the base checkpoint in the configuration of a saved adapter.

    Args:
        folder: Folder of the adapter.
        mapping: Entry `auto_mapping`. peft writes the trained class of this package.

    Raises:
        OSError: The file cannot be written.
    """
    config = folder / ADAPTER_CONFIG
    if not config.is_file():  # FSDP saves shards without one
        return
    content = read_json(config) | {"auto_mapping": mapping}
    base = content.get("base_model_name_or_path")
    if base and Path(base).is_dir():  # found from any working folder, as the codec is
        content["base_model_name_or_path"] = str(Path(base).absolute())
    config.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def complete_whole(folder: Path, *, checkpoint: BaseCheckpoint, codec: str | None) -> None:
    """Add what a model needs to speak to a folder of its weights: the base's configuration, tokenizer and processor.

    Args:
        folder: Folder of the weights.
        checkpoint: Base checkpoint.
        codec: Codec of the training. None for the one that the base checkpoint names.

    Raises:
        OSError: A file cannot be written.
    """
    shutil.copyfile(str(cached_file(checkpoint.name, _CONFIG)), folder / _CONFIG)
    save_processor(checkpoint, folder, codec=codec)


def finish_whole(folder: Path, *, checkpoint: BaseCheckpoint) -> None:
    """Replace the weights of a trained model by a checkpoint in the usual layout and in the types of the base.

    The trainer saves weights by the names and in the types of the training, from which it resumes.

    Args:
        folder: Folder of the weights.
        checkpoint: Base checkpoint.

    Raises:
        OSError: A file cannot be written.
    """
    family = checkpoint.family
    made = folder / _FINISHING
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        family.write_whole(checkpoint, lambda model: _with_weights(model, folder), made, layout=family.layouts[0])
        os.umask(umask := os.umask(0))
        for pattern in _WEIGHTS:
            for path in folder.glob(pattern):
                if not (made / path.name).exists():
                    path.unlink()
        for path in made.iterdir():
            path.chmod(0o666 & ~umask)  # safetensors writes files for the user alone
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _with_weights(model: Any, folder: Path) -> Any:
    """Return a model with the weights in a folder, in the types of the model."""
    unknown: set[str] = set()
    for path in sorted(folder.glob(_WEIGHTS[0])):
        unknown |= set(model.load_state_dict(load_file(path), strict=False).unexpected_keys)
    if unknown:
        raise UserError(f"{folder}: expected the weights of the base model, got {min(unknown)} too")
    return model
