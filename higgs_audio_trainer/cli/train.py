"""`train`: LoRA fine-tuning with logged predictions."""

from __future__ import annotations

from collections.abc import Sequence

from higgs_audio_trainer.cli.options import parse_train
from higgs_audio_trainer.signals import exit_status


def run(arguments: Sequence[str], prog: str) -> int:
    """Train, or print the help."""
    settings = parse_train(arguments, prog)
    if isinstance(settings, str):
        print(settings)
        return 0
    import torch.distributed as dist

    from higgs_audio_trainer.run import run_training

    result = run_training(settings)
    if dist.is_initialized():
        dist.destroy_process_group()  # else a rank that is slower to end may find its peers gone, and abort
    return exit_status(result.stopped_by)
