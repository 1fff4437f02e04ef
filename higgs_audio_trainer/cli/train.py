"""`train`: LoRA fine-tuning with logged predictions."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence

from higgs_audio_trainer.cli.options import parse_train, train_parser
from higgs_audio_trainer.cli.parser import ArgumentParser
from higgs_audio_trainer.events import Diagnosis
from higgs_audio_trainer.training.signals import exit_status, under_torchrun
from sinks.terminal.escape import printable_lines
from sinks.terminal.screen import say_on_stderr


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    return train_parser(prog)


def run(arguments: Sequence[str], prog: str) -> int:
    """Train, or print the help."""
    settings = parse_train(arguments, prog)
    if isinstance(settings, str):
        print(settings)
        return 0
    from higgs_audio_trainer.run import run_training

    result = run_training(settings)
    if result.failed_by is not None:
        say_failure(result.failed_by)
    status = exit_status(result.stopped_by)
    if under_torchrun(os.environ):
        _leave(status)
    return status


def say_failure(found: Diagnosis) -> None:
    """Say which diagnosis ended a run."""
    say_on_stderr(
        printable_lines(
            f"higgs-audio-trainer: --diagnose fail: expected no error in the record, got {found.code} at step "
            f"{found.step}, as said above. The run was saved. To train on all the same: --resume --diagnose warn"
        )
    )


def _leave(status: int) -> None:
    """End the process without taking the interpreter down.

    Threads of torch that wake up in an interpreter that is being taken down abort the process now and then, and
    torchrun would call the whole job a failure.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - what trackers registered there is still done
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)
