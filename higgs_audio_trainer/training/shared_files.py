"""Check of what ranks on several machines must share or have alike."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate.utils import gather_object
from transformers import TrainingArguments

from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.training.collective import place_of


def check_shared_files(attempt: Attempt, prepared: Sequence[PreparedDataset], arguments: TrainingArguments) -> None:
    """Raise an error if machines differ in what all ranks need. A single process is not checked.

    Args:
        attempt: Attempt that rank 0 planned.
        prepared: Data sets that this rank opened.
        arguments: Arguments of the run.

    Raises:
        UserError: The checkpoint is missing on this machine, or ranks have other samples.
    """
    if arguments.world_size == 1:
        return
    fingerprints = [dataset.fingerprint for dataset in prepared]
    others = gather_object([(place_of(arguments.process_index) or "rank 0", fingerprints)])
    if attempt.checkpoint is not None and not attempt.checkpoint.is_dir():
        raise UserError(
            f"--resume: expected {attempt.checkpoint} on every machine, got none here. Put --output_dir on a disk that "
            "all machines share"
        )
    for place, found in others:
        if found != others[0][1]:
            raise UserError(
                f"--train_manifest: expected the same samples on every rank, got other samples or codes on {place}. "
                "Put manifests, recordings and --codes_dir on a disk that all machines share"
            )
