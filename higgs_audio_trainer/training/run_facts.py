"""Facts about our own training for `run_start`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of
from higgs_audio_trainer.config import RANDOM_WEIGHTS, TrainSettings
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.recording.schedule import schedule_name
from higgs_audio_trainer.recording.settings import RunFacts
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer


def run_facts(
    settings: TrainSettings,
    trainer: HiggsAudioTrainer,
    checkpoint: BaseCheckpoint,
    attempt: Attempt,
    resume_changes: Mapping[str, Any] | None,
    num_train_samples: int,
    num_eval_samples: int,
) -> RunFacts:
    """Return the facts of a training that is ready. Secrets of the config are not redacted yet.

    What the trainer decides is asked of the trainer, since an environment variable or the memory of the device may
    overrule a flag.
    """
    arguments, model = trainer.args, trainer.model
    assert model is not None
    resolved = {
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "mixed_precision": trainer.accelerator.mixed_precision,
        "batch_size": trainer.batch_size,
        "audio_tokenizer": settings.audio_tokenizer or codec_of(settings.base_ckpt),
    }
    return RunFacts(
        config=settings.as_mapping() | resolved,
        world_size=arguments.world_size,
        device=str(arguments.device),
        seed=arguments.seed,
        resumed_from_step=attempt.resumed_from_step,
        resume_changes=resume_changes,
        num_train_samples=num_train_samples,
        num_eval_samples=num_eval_samples,
        trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        base_is_random=bool(getattr(checkpoint.config, RANDOM_WEIGHTS, False)),
        max_length=checkpoint.max_length,
        modalities=("text", "audio") if checkpoint.ids.learns_text else ("audio",),
        stops=("text", "audio") if checkpoint.text_stop_ids else ("audio",),
        family=checkpoint.family.name,
        total_steps=trainer.state.max_steps,
        schedule=schedule_name(trainer.lr_scheduler),
        vocab_size=checkpoint.config.vocab_size,
        codebook_size=checkpoint.config.codebook_size,
    )
