"""Command `train`. Fine-tunes with LoRA or in full, and logs predictions."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.epilogue import epilogue, show_last_lines
from higgs_audio_trainer.cli.train_flags import parse_train, train_parser
from higgs_audio_trainer.events import Diagnosis
from higgs_audio_trainer.phases import STARTING, phase
from higgs_audio_trainer.third_party_imports import prepare_imports
from higgs_audio_trainer.training.signals import exit_status, under_torchrun
from sinks.terminal.escape import printable_lines
from sinks.terminal.screen import say_on_stderr


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    return train_parser(prog)


def run(arguments: Sequence[str], prog: str) -> int:
    """Train, or print the help, and return the exit status."""
    settings = parse_train(arguments, prog)
    if isinstance(settings, str):
        if os.environ.get("RANK", "0") == "0":  # under torchrun one process prints
            print(settings)
        return 0
    with phase(STARTING, is_slow=True):
        prepare_imports()
        from higgs_audio_trainer.run import InterruptedRun, run_training

    try:
        result = run_training(settings)
    except InterruptedRun as interrupt:
        if interrupt.result.milestones is not None:
            show_last_lines(epilogue(interrupt.result, settings, arguments, os.environ, is_saved=False))
        raise
    if result.milestones is not None:
        show_last_lines(epilogue(result, settings, arguments, os.environ))
    if result.failed_by is not None:
        print_failure(result.failed_by)
    status = exit_status(result.stopped_by)
    if under_torchrun(os.environ):
        _exit_now(status)
    return status


def print_failure(diagnosis: Diagnosis) -> None:
    """Print the diagnosis that ended a run with `--diagnose fail`."""
    say_on_stderr(
        printable_lines(
            f"higgs-audio-trainer: --diagnose fail: expected no error in the record, got {diagnosis.code} at step "
            f"{diagnosis.step}, printed above. The run was saved. To train on despite the error, add --resume "
            "--diagnose warn"
        )
    )


def _exit_now(status: int) -> None:
    """Run the exit handlers, flush the standard streams and end the process without interpreter shutdown.

    Threads of torch that wake up during the shutdown sometimes abort the process, and torchrun would report the whole
    job as failed.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - trackers finish their runs there
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)
