"""`train`: LoRA fine-tuning with logged predictions."""

from __future__ import annotations

from collections.abc import Sequence

from higgs_audio_trainer.cli.options import parse_train


def run(arguments: Sequence[str], prog: str) -> int:
    """Train, or print the help."""
    settings = parse_train(arguments, prog)
    if isinstance(settings, str):
        print(settings)
        return 0
    from higgs_audio_trainer.run import run_training

    run_training(settings)
    return 0
