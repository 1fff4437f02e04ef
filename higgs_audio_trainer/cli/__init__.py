"""Command line of the package. No other folder parses arguments, prints or exits.

Each command is a file with the command's name and defines `parser(prog)` and `run(arguments, prog)`. Flags without a
command mean `train`. `main` imports a command when the command runs, and commands import their heavy parts when needed,
so a command without torch starts fast.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from higgs_audio_trainer.bounds import of_command
from higgs_audio_trainer.cli.phase_display import phases_shown
from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.own_packages import prefer_own

prefer_own("schemas")

COMMANDS = {
    "train": "LoRA fine-tuning with logged predictions (the default)",
    "manifest": "write a manifest of a table, folder or data set",
    "prepare": "encode a manifest's audio to codes once, resumable",
    "demo": "train a tiny model on bundled clips: no network, under a minute",
    "say": "speak a text with a trained adapter, to a WAV or FLAC file",
    "export-model": "merge an adapter into a whole checkpoint for from_pretrained",
    "doctor": "print what the machine has, and whether a training fits (--plan)",
    "tiny": "write a tiny base checkpoint and codec, for tests and CI",
    "show": "print a log like the console; filters, --follow, --summary",
    "diff": "compare the logs of two runs, or write a golden",
    "validate": "check a log: schema, gaps, torn lines, order",
    "report": "draw up to 8 logs as an HTML page that works offline",
    "diagnose": "find training problems in a log, with causes and fixes",
    "merge": "merge the files of a log into one JSONL stream on stdout",
    "export": "copy a log to an experiment tracker or to Parquet files",
    "schema": "print the JSON Schema of an event",
    "completion": "print a completion script for your shell",
}
#: Commands whose only output is stdout. An error without a file name is an error of stdout.
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
_OBJECTS_PER_COLLECTION = 50_000  # an import makes many objects that stay; collections take a tenth of a start
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: Arguments after the name of the program. By default the arguments of the process.

    Returns:
        0 after success, 1 after a bug of ours, 2 after bad input, 128 + n after signal n. Some commands return 1 for
        their findings.

    Example:
        >>> main(["schema", "no_such_event"])
        2
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and _ONLY_PRINT.issuperset(arguments[:1]):
        gc.set_threshold(_OBJECTS_PER_COLLECTION)
    _open_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    message = None
    try:
        status = _run_and_flush(arguments)
    except UserError as error:
        message = _message_of_rank(error)
        if _error_of_stdout() is not None:
            _discard_stdout()
        status = EXIT_BAD_INPUT
    except KeyboardInterrupt as interrupt:
        from signal import Signals

        from higgs_audio_trainer.training.signals import exit_status

        message = _answer_to(interrupt, arguments)
        status = exit_status(Signals.SIGINT)
    except Exception:  # noqa: BLE001 - a bug: the usual traceback, without secrets in the message
        from traceback import format_exc

        message = format_exc()
        status = EXIT_FAILED
    if message is not None:  # printed after the failure's open files are closed, because printing opens more files
        _print_without_secrets(message)
    if argv is None and _ONLY_PRINT.issuperset(arguments[:1]):
        # The process ends here. A garbage collection over all imports takes a tenth of the time for a small log.
        gc.freeze()
    return status


def _answer_to(interrupt: KeyboardInterrupt, arguments: list[str]) -> str | None:
    """Return the answer to Ctrl-C before a training begins. A begun training and other commands answer by themselves.

    Example:
        >>> interrupt = KeyboardInterrupt()
        >>> interrupt.add_note("encoding")
        >>> _answer_to(interrupt, ["prepare", "--train_manifest", "m.jsonl"])
        'higgs-audio-trainer: interrupted while encoding. To go on, enter the same command: encoded clips are kept.'
        >>> _answer_to(KeyboardInterrupt(), ["show", "--follow", "out"])
    """
    command = arguments[0] if arguments else ""
    prepares = command in ("train", "prepare", "demo") or command.startswith("-")
    if type(interrupt) is not KeyboardInterrupt or not prepares or os.environ.get("RANK", "0") != "0":
        return None
    phases = getattr(interrupt, "__notes__", ())
    during = "".join(f" while {name}" for name in phases)
    kept = ": encoded clips are kept" if "encoding" in phases else ""
    return f"higgs-audio-trainer: interrupted{during}. To go on, enter the same command{kept}."


def _message_of_rank(error: UserError) -> str | None:
    """Return the message that this rank prints. None if another rank prints the message.

    Errors that all ranks raise together are printed by rank 0. An error that this rank met alone is printed here with
    rank and machine, since no other rank knows the error.
    """
    rank = int(os.environ.get("RANK", "0"))
    place = error.place
    if error.is_shared:
        if rank != 0:
            return None
    elif "RANK" in os.environ:
        from higgs_audio_trainer.training.collective import is_first_to_report, place_of

        if not is_first_to_report(str(error)):
            return None
        place = place_of(rank)
    return f"higgs-audio-trainer: {place}: {error}" if place else f"higgs-audio-trainer: {error}"


def _print_without_secrets(message: str) -> None:
    from higgs_audio_trainer.redaction import Redactor
    from sinks.terminal.escape import printable_lines
    from sinks.terminal.screen import say_on_stderr

    say_on_stderr(printable_lines(Redactor(environment=os.environ)(message)))


def _run_and_flush(arguments: list[str]) -> int:
    """Run a command until all output is written or the reader of standard output is gone.

    Raises:
        UserError: Standard output cannot be written, for example because its device is full. Or the locale's encoding
            lacks a letter of a file's name.
    """
    status = 0
    try:
        try:
            with of_command(), phases_shown():
                status = _dispatch(arguments)
        finally:  # argparse ends --help with SystemExit
            sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, like `| head -1`
        _discard_stdout()
    except OSError as error:
        stdout_error = _error_of_stdout()
        if stdout_error is None and (error.filename is not None or not _ONLY_PRINT.issuperset(arguments[:1])):
            raise
        _discard_stdout()
        reason = (stdout_error or error).strerror or str(stdout_error or error)
        raise UserError(f"stdout: {reason}. Write the output to another place") from error
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        if encoding == "utf-8":
            raise
        raise UserError(
            f"{error.object}: expected letters of the locale's encoding, {encoding}, got "
            f"{error.object[error.start : error.end]!r}. Set LC_ALL=C.UTF-8"
        ) from error
    return status


def _error_of_stdout() -> OSError | None:
    """Flush standard output and return the error of the flush, or None."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _open_standard_descriptors() -> None:
    """Open /dev/null on closed standard descriptors, so no other file gets the numbers and our output."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, the number of the closed descriptor
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _discard_stdout() -> None:
    """Point standard output to /dev/null. The interpreter flushes at exit and would print the error again."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _dispatch(arguments: list[str]) -> int:
    if arguments in (["--help"], ["-h"], []):
        print(_overview())
        return 0 if arguments else EXIT_BAD_INPUT
    if arguments[0] == "--version":
        from higgs_audio_trainer.versions import version_lines

        print("\n".join(version_lines()))
        return 0
    if arguments[0].startswith("-"):
        arguments = ["train", *arguments]
    command, *rest = arguments
    if command not in COMMANDS:
        hint = suggestion(command, COMMANDS)
        raise UserError(f"expected a command ({', '.join(COMMANDS)}) or flags of train, got {command!r}.{hint}")
    if command in _READ_LOGS:
        _allow_many_files()
    run = import_module(f"higgs_audio_trainer.cli.{command.replace('-', '_')}").run
    status: int = run(rest, f"higgs-audio-trainer {command}")
    return status


def _allow_many_files() -> None:
    """Raise the limit of open files to the maximum, because each rank and attempt of a log is an open file."""
    import resource
    from contextlib import suppress

    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # some systems report no limit and have one
        resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


def _overview() -> str:
    """Return the help without a command: all commands, then all flags of train."""
    import textwrap

    width = max(map(len, COMMANDS))
    names = " ".join(f"--{item.name}" for item in import_module("higgs_audio_trainer.config").flags())
    return "\n".join(
        [
            "usage: higgs-audio-trainer [COMMAND] [flags]",
            "",
            "commands (COMMAND --help prints details):",
            *(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
            "",
            *textwrap.wrap(
                f"flags without a command mean train: {names}", 79, subsequent_indent="  ", break_on_hyphens=False
            ),
            "",
            "example: higgs-audio-trainer --train_manifest train.jsonl --output_dir out",
        ]
    )
