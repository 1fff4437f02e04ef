"""Facts about our own training for `run_start`."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.recording.settings import RunFacts
from higgs_audio_trainer.training.base_checkpoint import RANDOM_WEIGHTS, BaseCheckpoint, codec_of


def run_facts(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    model: Any,
    attempt: Attempt,
    num_train_samples: int,
    num_eval_samples: int,
) -> RunFacts:
    """Return the facts of a training before the first step. Secrets of the config are not redacted yet."""
    resolved = {
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        "audio_tokenizer": settings.audio_tokenizer or codec_of(settings.base_ckpt),
    }
    return RunFacts(
        config=settings.as_mapping() | resolved,
        world_size=arguments.world_size,
        device=str(arguments.device),
        seed=arguments.seed,
        resumed_from_step=attempt.resumed_from_step,
        num_train_samples=num_train_samples,
        num_eval_samples=num_eval_samples,
        trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        base_is_random=bool(getattr(checkpoint.config, RANDOM_WEIGHTS, False)),
        max_length=checkpoint.config.max_position_embeddings,
        modalities=("text", "audio"),
        stops=("text", "audio"),
    )
