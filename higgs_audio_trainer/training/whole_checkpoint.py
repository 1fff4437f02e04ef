"""Whole checkpoints: a base checkpoint with an adapter merged into its weights, which `from_pretrained` loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of, open_checkpoint
from higgs_audio_trainer.checkpoint.base_reference import reference_to
from higgs_audio_trainer.checkpoint.processor_files import save_processor
from higgs_audio_trainer.checkpoint.speaking_model import adapter_folder, base_of, with_adapter
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.training.model_card import own_card, whole_card, write_card

_MOST_BYTES = "5GB"  # of a file of weights


def export_model(adapter: str, folder: Path, *, base_ckpt: str | None = None) -> Path:
    """Merge an adapter into its base checkpoint, and write a whole checkpoint with tokenizer, processor and card.

    The weights keep their dtype.

    Args:
        adapter: Output directory of a training or one of its checkpoints.
        folder: Folder to write. Must not exist, or be empty.
        base_ckpt: Base checkpoint. None for the one that the adapter names.

    Returns:
        Folder of the adapter.

    Raises:
        UserError: The adapter or the base checkpoint cannot be loaded, or the folder holds something or cannot be
            written.
    """
    folder = folder.resolve()
    source = adapter_folder(Path(adapter))
    base = base_ckpt or base_of(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected a folder that does not exist, got one with files. Name another folder")
    checkpoint = open_checkpoint(base)
    codec = codec_of(str(source)) if (source / "processor_config.json").is_file() else None
    model = _merged(base, source)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary, max_shard_size=_MOST_BYTES)
        save_processor(checkpoint, temporary, codec=codec)
        write_card(temporary, whole_card(reference_to(base), own_card(source)))
        os.umask(umask := os.umask(0))
        for path in temporary.iterdir():
            path.chmod(0o666 & ~umask)  # safetensors writes files for the user alone
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}. Name another folder, or free space.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return source


def _merged(base: str, adapter: Path) -> Any:
    from transformers import HiggsAudioV2ForConditionalGeneration

    try:
        loaded: Any = HiggsAudioV2ForConditionalGeneration.from_pretrained(
            base, dtype="auto", use_text_head=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"--base_ckpt {base}: the weights cannot be loaded: {error}") from error
    model, info = loaded
    missing = [name for name in info["missing_keys"] if not name.startswith("text_lm_head.")]
    if missing:
        raise UserError(f"--base_ckpt {base}: expected weights for {', '.join(sorted(missing)[:5])}, got none.")
    if info["missing_keys"]:
        model.text_lm_head = None  # which speech does not need
    adapted = with_adapter(model, adapter, base)
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:  # NaN in the merged weights
        raise UserError(f"{adapter}: the adapter cannot be merged into {base}: {error}") from error
