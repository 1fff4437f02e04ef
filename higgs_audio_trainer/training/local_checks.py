"""Checks of what a training needs from this machine, before the Hub is asked for anything."""

from __future__ import annotations

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.sources import Columns, check_local
from higgs_audio_trainer.hub import check_name

_MODELS = ("base_ckpt", "audio_tokenizer", "say_asr", "say_speaker")


def check_machine(settings: TrainSettings) -> None:
    """Check folders of models and manifests. No network is asked, and nothing is written.

    Raises:
        UserError: A folder or a manifest is missing.
    """
    for flag in _MODELS:
        if (name := getattr(settings, flag)) is not None:
            check_name(name, f"--{flag}")
    columns = Columns(settings.text_column, settings.audio_column, settings.speaker_column)
    for manifest in filter(None, (settings.train_manifest, settings.eval_manifest)):
        check_local(manifest, columns)
