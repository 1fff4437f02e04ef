"""Messages for errors of saving, such as a full disk or a folder without write permission."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.checkpoints import latest_checkpoint

_NO_ROOM_BYTES = 2**20


@contextmanager
def saving(target: Path, output_dir: Path) -> Iterator[None]:
    """Turn an error of writing into a `UserError`, and remove the incomplete folder of a checkpoint.

    Args:
        target: Folder that is written: a checkpoint, or the output directory itself.
        output_dir: Output directory of the run, whose last complete checkpoint the message names.

    Raises:
        UserError: The block could not write.
    """
    is_new = not target.exists()
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _reason(error, target)
        if reason is None:
            raise
        if is_new:
            shutil.rmtree(target, ignore_errors=True)
        last = None
        with suppress(OSError):
            last, _ = latest_checkpoint(output_dir)
        kept = f"The last complete checkpoint is {last.name}" if last else "No checkpoint is complete yet"
        raise UserError(
            f"{target}: {reason}. {kept}. Make room, or remove the cause, then continue the run with --resume"
        ) from error


def _reason(error: Exception, target: Path) -> str | None:
    """Return the reason of a failed write in words. Return None for an error of another kind."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # torch and safetensors report a failed write without an error number.
    marks = ("PytorchStreamWriter", "inline_container", "file write")
    is_writing = isinstance(error, SafetensorError) or any(mark in str(error) for mark in marks)
    if not is_writing:
        return None
    with suppress(OSError):
        room = os.statvfs(target if target.exists() else target.parent)
        if room.f_bavail * room.f_frsize < _NO_ROOM_BYTES:
            return "No space left on device"
    return " ".join(str(error).split())[:200]
