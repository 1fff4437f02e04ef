"""The command line: the only place that parses, prints and exits. One file a command.

Flags without a command mean `train`. Commands are imported when they are run, so that those without torch start fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from higgs_audio_trainer.errors import LoggingError, UserError

COMMANDS = {
    "train": "LoRA fine-tuning with logged predictions (the default)",
    "prepare": "encode a manifest's audio to codes once, resumable",
    "demo": "train a tiny model on bundled clips: CPU, no network, under a minute",
    "tiny": "write a tiny base checkpoint and codec, for tests and CI",
    "schema": "print the JSON Schema of an event",
}
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 128 + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 2 bad input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        # Every rank meets the same bad input and one says it; a log fails on one rank alone.
        if os.environ.get("RANK", "0") == "0" or isinstance(error, LoggingError):
            print(f"higgs-audio-trainer: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    if arguments in (["--help"], ["-h"], []):
        print(_overview())
    if arguments == ["--version"]:
        print(import_module("higgs_audio_trainer").__version__)
        return 0
    if not arguments:
        return EXIT_BAD_INPUT
    if arguments[0].startswith("-"):
        arguments = ["train", *arguments]
    command, *rest = arguments
    if command not in COMMANDS:
        nearest = get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"expected a command ({', '.join(COMMANDS)}) or flags of train, got {command!r}.{hint}")
    run = import_module(f"higgs_audio_trainer.cli.{command}").run
    code: int = run(rest, f"higgs-audio-trainer {command}")
    return code


def _overview() -> str:
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: higgs-audio-trainer [COMMAND] [flags]", "", "commands (COMMAND --help for more):", *lines, ""]
    )
