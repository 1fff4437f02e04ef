"""The first event of our own training."""

from __future__ import annotations

import socket
from typing import Any

from transformers import TrainingArguments

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.events import RunStart
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.training.base_checkpoint import RANDOM_WEIGHTS, BaseCheckpoint, codec_of
from higgs_audio_trainer.versions import versions


def run_start(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    model: Any,
    attempt: Attempt,
    num_train_samples: int,
    num_eval_samples: int,
) -> RunStart:
    """Describe what is about to run, secrets redacted."""
    resolved = {
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        "audio_tokenizer": settings.audio_tokenizer or codec_of(settings.base_ckpt),
    }
    return RunStart(
        config=redacted(settings.as_mapping() | resolved),
        versions=versions(),
        world_size=arguments.world_size,
        device=str(arguments.device),
        seed=arguments.seed,
        resumed_from_step=attempt.resumed_from_step,
        num_train_samples=num_train_samples,
        num_eval_samples=num_eval_samples,
        num_codebooks=checkpoint.ids.num_codebooks,
        trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        host=socket.gethostname(),
        base_is_random=bool(getattr(checkpoint.config, RANDOM_WEIGHTS, False)),
        max_length=checkpoint.config.max_position_embeddings,
        modalities=("text", "audio"),
        stops=("text", "audio"),
    )
