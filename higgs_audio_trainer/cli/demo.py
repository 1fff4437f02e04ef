"""Command `demo`. Trains a tiny model on bundled clips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.epilogue import show_last_lines
from higgs_audio_trainer.config import FAMILY_NAMES
from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.phases import STARTING, phase
from higgs_audio_trainer.third_party_imports import prepare_imports
from higgs_audio_trainer.training.signals import exit_status

_MAX_STEPS, _LOG_STEPS = 60, 20


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Train a tiny model on eight bundled clips (English and Arabic) and watch its predictions improve: "
        "CPU, no network, under a minute.",
        epilog=f"example: {prog} --output_dir my-demo",
    )
    made.add_argument("--output_dir", metavar="DIR", default="higgs-demo", help="folder for all files [%(default)s]")
    made.add_argument(
        "--family", choices=FAMILY_NAMES, default=FAMILY_NAMES[0], help="family of the model [%(default)s]"
    )
    made.add_argument("--max_steps", metavar="N", type=int, default=_MAX_STEPS, help="optimizer steps [%(default)s]")
    made.add_argument("--log_steps", metavar="N", type=int, default=_LOG_STEPS, help="log interval [%(default)s]")
    made.add_argument("--seed", metavar="N", type=int, default=0, help="seed of model and training [%(default)s]")
    made.add_argument("--log_audio", metavar="N", type=int, help="WAV files every N logged steps [none]")
    made.add_argument("--say_steps", metavar="N", type=int, help="speak every N steps; 0: never [at the end]")
    made.add_argument("--fault", metavar="NAME", help="plant a fault that the checks find; list: print the names")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Run the demo, print a summary with next steps, and return the exit status."""
    given = parser(prog).parse_args(arguments)
    for name, value in (("max_steps", given.max_steps), ("log_steps", given.log_steps)):
        if value < 1:
            raise UserError(f"--{name}: expected at least 1, got {value}")
    # For matrices this small a second thread saves a quarter of the time on an idle machine and takes ten times as long
    # on a busy machine, because waiting threads spin. Set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with phase(STARTING, is_slow=True):
        prepare_imports()
        from higgs_audio_trainer.demo.faults import FAULTS
        from higgs_audio_trainer.demo.run import FAULTS_LIST, run_demo

    if given.fault == FAULTS_LIST:
        print("\n".join(f"{name:<22}{fault.mistake}" for name, fault in FAULTS.items()))
        return 0
    if given.fault is not None:
        if given.fault not in FAULTS:
            hint = suggestion(given.fault, FAULTS) or f" The faults are {', '.join(FAULTS)}."
            raise UserError(f"--fault: expected the name of a fault or {FAULTS_LIST}, got {given.fault!r}.{hint}")
        if why := FAULTS[given.fault].not_for.get(given.family):
            raise UserError(f"--fault {given.fault}: cannot be planted in {given.family}: {why}. Plant another fault.")
        mistake = FAULTS[given.fault].mistake
        print(f"Planted: {given.fault}. {mistake[0].upper()}{mistake[1:]}.")
    outcome = run_demo(
        Path(given.output_dir),
        max_steps=given.max_steps,
        seed=given.seed,
        log_steps=given.log_steps,
        more=[(name, getattr(given, name)) for name in ("log_audio", "say_steps") if getattr(given, name) is not None],
        fault=given.fault,
        family=given.family,
    )
    show_last_lines(["", *outcome.summary()])
    return exit_status(outcome.stopped_by)
