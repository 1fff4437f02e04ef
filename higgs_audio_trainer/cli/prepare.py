"""Command `prepare`. Encodes the audio of manifests to codes, once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from higgs_audio_trainer.atomic_file import check_writable
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, add_switch
from higgs_audio_trainer.cli.audit_report import audit_text, write_audit
from higgs_audio_trainer.cli.column_flags import add_column_flags, columns_of
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.config import DEFAULT_BASE_CKPT
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.phases import STARTING, phase
from higgs_audio_trainer.third_party_imports import prepare_imports
from sinks.jsonl import JsonlSink
from sinks.terminal.words import count_of


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage=f"{prog} --train_manifest FILE [flags]",
        description="Check manifests and encode their audio to codes once; `train` reuses the codes. A repeated "
        "command encodes the remaining clips.",
        epilog=f"example: {prog} --train_manifest train.jsonl",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=30),
    )
    made.add_argument(
        "--train_manifest", metavar="FILE", required=True, help="samples to train on: a file, folder or data set"
    )
    made.add_argument("--eval_manifest", metavar="FILE", help="samples to evaluate on, in any such form")
    add_column_flags(made)
    made.add_argument("--base_ckpt", metavar="NAME", default=DEFAULT_BASE_CKPT, help="base checkpoint [Higgs Audio v2]")
    made.add_argument("--audio_tokenizer", metavar="NAME", help="codec: a folder or a name [of base_ckpt]")
    made.add_argument("--codes_dir", metavar="DIR", help="cache [~/.cache/higgs-audio-trainer/codes]")
    made.add_argument(
        "--max_seconds", metavar="X", type=float, default=60.0, help="seconds of the longest clip [%(default)s]"
    )
    made.add_argument("--workers", metavar="N", type=int, help="processes on each device [as many as pay]")
    made.add_argument("--audit", metavar="FILE", help="JSON file for the audit of the data")
    add_switch(made, "--strict_data", "exit with status 2 if the audit finds an error")
    made.add_argument("--events", metavar="FILE", help="log of the progress, in JSON Lines")
    made.add_argument("--device", metavar="NAME", help="device that encodes [a GPU if present, else cpu]")
    add_switch(made, "--skip_bad_samples", "skip and list samples that have problems")
    add_no_limits(made, is_listed=False)  # the help fits a screen, and messages name the flag
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Check manifests, encode audio without codes, and return the exit status."""
    given = parser(prog).parse_args(arguments)
    if not given.max_seconds > 0:
        raise UserError(f"--max_seconds: expected more than 0, got {given.max_seconds:g}")
    if given.workers is not None and given.workers < 1:
        raise UserError(f"--workers: expected at least 1, got {given.workers}")
    with phase(STARTING, is_slow=True):
        prepare_imports()
        from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of, open_checkpoint
        from higgs_audio_trainer.data.audit.verdict import check_strictly
        from higgs_audio_trainer.data.preparation.progress import ProgressLine
        from higgs_audio_trainer.recording.preparation_log import PreparationLog, PreparationReports
        from higgs_audio_trainer.training.prepare_manifests import prepare_manifests, quiet_third_parties

    quiet_third_parties()
    devices = _devices(given.device)
    manifests = [manifest for manifest in (given.train_manifest, given.eval_manifest) if manifest]
    _check_local(given, manifests)
    checkpoint = open_checkpoint(given.base_ckpt)
    is_first = os.environ.get("RANK", "0") == "0"  # under torchrun, all processes work, and the first prints
    log = (
        PreparationLog(partial(JsonlSink, Path(given.events)), uuid4().hex[:12]) if given.events and is_first else None
    )
    reports = PreparationReports(ProgressLine(sys.stderr) if is_first else None, print, log)
    with _ended_in_order(), reports:
        prepared = prepare_manifests(
            manifests,
            checkpoint,
            codec_name=given.audio_tokenizer or codec_of(given.base_ckpt),
            codes_dir=given.codes_dir,
            max_seconds=given.max_seconds,
            skip_bad_samples=given.skip_bad_samples,
            devices=devices,
            workers=given.workers,
            columns=columns_of(given),
            say=reports.say,
            report=reports.report,
        )
        for manifest, samples in zip(manifests, prepared.datasets, strict=True):
            reports.say(f"{manifest}: {count_of(len(samples), 'sample')} ready")
        reports.say(audit_text(prepared.audit))
    if is_first and given.audit:
        write_audit(prepared.audit, Path(given.audit))
    if given.strict_data:
        check_strictly(prepared.audit)
    return 0


def _check_local(given: argparse.Namespace, manifests: Sequence[str]) -> None:
    """Check what is on this machine, before the Hub is asked."""
    from higgs_audio_trainer.data.sources import check_local
    from higgs_audio_trainer.hub import check_name

    for flag in ("base_ckpt", "audio_tokenizer"):
        if (name := getattr(given, flag)) is not None:
            check_name(name, f"--{flag}")
    for manifest in manifests:
        check_local(manifest, columns_of(given))
    if given.audit is not None:
        try:
            check_writable(Path(given.audit).parent)
        except OSError as error:
            raise UserError(f"--audit: {error.filename}: {error.strerror}. Name another file.") from error


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """End the process with status 143 on SIGTERM, after workers are ended and claims are given back."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _devices(name: str | None) -> list[str]:
    """Return the devices of this process: one under torchrun, else all of the machine."""
    from higgs_audio_trainer.planning.machine import check_device

    if name is None:
        import torch

        if not torch.cuda.is_available():
            return ["cpu"]
        if (rank := os.environ.get("LOCAL_RANK")) is not None:
            return [f"cuda:{rank}"]
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    check_device(name)
    return [name]
