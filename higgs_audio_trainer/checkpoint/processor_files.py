"""Files of a processor beside an adapter or a checkpoint, so that transformers' `AutoProcessor` loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from higgs_audio_trainer.documents import read_json
from higgs_audio_trainer.families.family import BaseCheckpoint

_CONFIG = "processor_config.json"
_NAME = "audio_tokenizer_name_or_path"
_OTHERS = ("preprocessor_config.json", "generation_config.json")


def save_processor(checkpoint: BaseCheckpoint, folder: Path, *, codec: str | None = None) -> None:
    """Save tokenizer, chat template and processor of a base checkpoint.

    Of a base checkpoint without a processor, the tokenizer is saved, and the name of the codec if one is given.

    Args:
        checkpoint: Base checkpoint.
        folder: Folder to write to. Files of the processor that it has are kept.
        codec: Codec of the processor, a folder or a name on the Hub. None for the one that the base checkpoint names.

    Raises:
        OSError: A file cannot be written.
    """
    from transformers.utils.hub import cached_file

    checkpoint.tokenizer.save_pretrained(folder)
    for name in (_CONFIG, *_OTHERS):
        found = cached_file(
            checkpoint.name,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is not None and not (folder / name).exists():
            shutil.copyfile(found, folder / name)
    path = folder / _CONFIG
    if path.exists() or codec is not None:
        config = read_json(path) if path.exists() else {}
        if not isinstance(config, dict):  # damaged, and of no use to a reader
            config = {}
        if not isinstance(entry := config.setdefault("audio_tokenizer", {}), dict):
            entry = config["audio_tokenizer"] = {}
        named = codec or entry.get(_NAME)
        if named is not None:
            entry[_NAME] = _absolute(str(named))
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _absolute(codec: str) -> str:
    """Return the absolute path of a folder, since a processor is loaded from any working folder. A name stays."""
    return str(Path(codec).absolute()) if Path(codec).is_dir() else codec
