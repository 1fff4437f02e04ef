"""The command line: the only place that parses, prints and exits. One file a command.

Flags without a command mean `train`. Commands are imported when they are run, and what few of them need where it is
needed, so that those without torch start fast.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from higgs_audio_trainer.errors import LoggingError, UserError, suggestion

COMMANDS = {
    "train": "LoRA fine-tuning with logged predictions (the default)",
    "prepare": "encode a manifest's audio to codes once, resumable",
    "demo": "train a tiny model on bundled clips: no network, under a minute",
    "tiny": "write a tiny base checkpoint and codec, for tests and CI",
    "show": "print a log as the console shows it; filters, --follow, --summary",
    "diff": "compare the logs of two runs; bless a golden",
    "validate": "check a log: schema, gaps, torn lines, order",
    "report": "draw a log, or two, as one HTML page that opens offline",
    "diagnose": "say what is wrong in a log, and what to do",
    "merge": "put the files of a log together, as one JSONL on stdout",
    "export": "bring a log to an experiment tracker, or into Parquet files",
    "schema": "print the JSON Schema of an event",
    "completion": "print a completion script for your shell",
}
#: Commands whose errors without the name of a file are those of standard output.
_ONLY_PRINT = {
    "show",
    "diff",
    "validate",
    "report",
    "diagnose",
    "merge",
    "schema",
    "completion",
    "--help",
    "-h",
    "--version",
}
_READ_LOGS = {"show", "diff", "validate", "report", "diagnose", "merge", "export"}
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 an error of ours, 2 bad input, 128 + n ended by signal n.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _occupy_standard_descriptors()
    _let_stdout_take_any_text()
    said = None
    try:
        status = _finished(arguments)
    except UserError as error:
        # Every rank meets the same bad input and one says it; a log fails on one rank alone.
        if os.environ.get("RANK", "0") == "0" or isinstance(error, LoggingError):
            said = f"higgs-audio-trainer: {error}"
        if _error_of_stdout() is not None:
            _abandon_stdout()
        status = EXIT_BAD_INPUT
    except KeyboardInterrupt:
        status = _interrupted()
    except Exception:  # noqa: BLE001 - what Python would print, without the secrets that a message may quote
        from traceback import format_exc

        said = format_exc()
        status = EXIT_FAILED
    if said is not None:  # here, where files that the failure left open are closed: more are opened to say it
        _say_without_secrets(said)
    if argv is None and _ONLY_PRINT.issuperset(arguments[:1]):
        # The process ends here. To look for garbage among all that was imported is a tenth of what a small log takes.
        gc.freeze()
    return status


def _interrupted() -> int:
    from signal import Signals

    from higgs_audio_trainer.training.signals import exit_status

    return exit_status(Signals.SIGINT)


def _say_without_secrets(text: str) -> None:
    from higgs_audio_trainer.redaction import Redactor
    from sinks.terminal.escape import printable_lines
    from sinks.terminal.screen import say_on_stderr

    say_on_stderr(printable_lines(Redactor(environment=os.environ)(text)))


def _finished(arguments: list[str]) -> int:
    """Run a command until all that it prints is written, or nobody reads it any more.

    Raises:
        UserError: standard output takes no more: its device is full.
    """
    status = 0
    try:
        try:
            status = _dispatch(arguments)
        finally:  # also where argparse ends it, after --help
            sys.stdout.flush()
    except BrokenPipeError:  # `| head -1`: who asked has read enough
        _abandon_stdout()
    except OSError as error:
        failed = _error_of_stdout()
        if failed is None and (error.filename is not None or not _ONLY_PRINT.issuperset(arguments[:1])):
            raise
        _abandon_stdout()
        reason = (failed or error).strerror or str(failed or error)
        raise UserError(f"stdout: expected room for the output, got {reason}. Write it to another place") from error
    return status


def _error_of_stdout() -> OSError | None:
    """Return what keeps standard output from taking what was printed."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _occupy_standard_descriptors() -> None:
    """Point closed standard descriptors at nothing: the next file would get their numbers, and whatever is printed."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _let_stdout_take_any_text() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _abandon_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, sys.stdout.fileno())  # else the interpreter fails to flush it at its exit, and says so
    os.close(nowhere)


def _dispatch(arguments: list[str]) -> int:
    if arguments in (["--help"], ["-h"], []):
        print(_overview())
        return 0 if arguments else EXIT_BAD_INPUT
    if arguments == ["--version"]:
        print(import_module("higgs_audio_trainer").__version__)
        return 0
    if arguments[0].startswith("-"):
        arguments = ["train", *arguments]
    command, *rest = arguments
    if command not in COMMANDS:
        hint = suggestion(command, COMMANDS)
        raise UserError(f"expected a command ({', '.join(COMMANDS)}) or flags of train, got {command!r}.{hint}")
    if command in _READ_LOGS:
        _allow_many_files()
    run = import_module(f"higgs_audio_trainer.cli.{command}").run
    code: int = run(rest, f"higgs-audio-trainer {command}")
    return code


def _allow_many_files() -> None:
    """Raise the number of open files as far as the system allows: of a log, each rank and attempt has one open."""
    import resource
    from contextlib import suppress

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # a system that names no limit, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _overview() -> str:
    import textwrap

    flags = " ".join(f"--{item.name}" for item in import_module("higgs_audio_trainer.config").flags())
    return "\n".join(
        [
            "usage: higgs-audio-trainer [COMMAND] [flags]",
            "",
            "commands (COMMAND --help says more):",
            *(f"  {name:<12}{text}" for name, text in COMMANDS.items()),
            "",
            *textwrap.wrap(f"flags alone mean train: {flags}", 79, subsequent_indent="  ", break_on_hyphens=False),
            "",
            "example: higgs-audio-trainer --train_manifest train.jsonl --output_dir out",
        ]
    )
