"""Whole checkpoints: a base checkpoint with an adapter merged into its weights, which `from_pretrained` loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from higgs_audio_trainer.atomic_file import check_writable
from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of, open_checkpoint
from higgs_audio_trainer.checkpoint.base_reference import reference_to
from higgs_audio_trainer.checkpoint.processor_files import save_processor
from higgs_audio_trainer.checkpoint.speaking_model import base_of, merge, trained_folder, with_adapter
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import Family
from higgs_audio_trainer.families.quantization import Quantization, round_weights
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG
from higgs_audio_trainer.phases import phase
from higgs_audio_trainer.training.model_card import own_card, whole_card, write_card


def export_model(
    adapter: str, folder: Path, *, base_ckpt: str | None = None, layout: str | None = None, bits: int | None = None
) -> Path:
    """Merge an adapter into its base checkpoint, and write a whole checkpoint with tokenizer, processor and card.

    The weights keep their dtype.

    Args:
        adapter: Output directory of a training or one of its checkpoints.
        folder: Folder to write. Must not exist, or be empty.
        base_ckpt: Base checkpoint. None for the one that the adapter names.
        layout: Layout of the weights, one of the family's. None for the usual one.
        bits: 4 or 8 to merge into the dequantized weights of a training with `--load_in_4bit` or `--load_in_8bit`.
            None to merge into the weights of the base checkpoint.

    Returns:
        Folder of the adapter.

    Raises:
        UserError: The adapter or the base checkpoint cannot be loaded, or the folder holds something or cannot be
            written.
    """
    folder = folder.resolve()
    source = trained_folder(Path(adapter))
    if not (source / ADAPTER_CONFIG).is_file():
        raise UserError(f"{source}: expected an adapter to merge, got a whole checkpoint, which is loaded as it is")
    base = base_ckpt or base_of(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected a folder that does not exist, got one with files. Name another folder")
    try:
        check_writable(folder.parent)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}. Name another folder.") from error
    if bits is not None:
        Quantization(bits, "cpu").check()
    checkpoint = open_checkpoint(base)
    codec = codec_of(str(source)) if (source / "processor_config.json").is_file() else None
    family = checkpoint.family
    layout = _layout_of(family, layout)

    def merged(model: Any) -> Any:
        if bits is not None:
            round_weights(model, bits)
        return merge(with_adapter(model, source, base))

    with _complete_folder(folder) as temporary:
        try:
            with phase("merging and writing the weights"):
                family.write_whole(checkpoint, merged, temporary, layout=layout)
        except ValueError as error:  # NaN in the merged weights
            raise UserError(f"{source}: the adapter cannot be merged into {base}: {error}") from error
        save_processor(checkpoint, temporary, codec=codec)
        write_card(temporary, whole_card(reference_to(base), family, layout, own_card(source)))
    return source


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes the place of `folder` at the end of the block.

    Raises:
        UserError: A file cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
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


def _layout_of(family: Family, wanted: str | None) -> str:
    layout = wanted or family.layouts[0]
    if layout not in family.layouts:
        known = " or ".join(family.layouts)
        raise UserError(f"--layout: expected {known} for a checkpoint of {family.name}, got {layout}")
    return layout
