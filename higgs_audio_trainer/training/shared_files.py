"""Check of the files that rank 0 found or made and that every machine reads."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import TrainingArguments

from higgs_audio_trainer.data.batch import PreparedSample
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.attempt import Attempt

_CHECKED_SAMPLES = 128


def check_shared_files(attempt: Attempt, samples: Sequence[PreparedSample], arguments: TrainingArguments) -> None:
    """Raise an error if this machine lacks files of rank 0, because the machines share no disk.

    A single process is not checked. Of many samples, 128 or a few more are checked.

    Args:
        attempt: Attempt that rank 0 planned.
        samples: Samples that rank 0 prepared.
        arguments: Arguments of the run.

    Raises:
        UserError: The checkpoint or some codes are missing on this machine.
    """
    if arguments.world_size == 1:
        return
    if attempt.checkpoint is not None and not attempt.checkpoint.is_dir():
        raise UserError(
            f"--resume: expected {attempt.checkpoint} on every machine, got none here. Put --output_dir on a disk that "
            "all machines share"
        )
    for sample in samples[:: max(1, len(samples) // _CHECKED_SAMPLES)]:
        for path in sample.code_files:
            if not path.exists():
                raise UserError(
                    f"--codes_dir: expected {path}, encoded on rank 0, on every machine, got no such file here. "
                    "Put --codes_dir on a disk that all machines share"
                )
