"""Command `completion SHELL`. Prints a completion script, generated from the parsers of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import get_args

import shtab

from higgs_audio_trainer.cli import COMMANDS
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, described
from higgs_audio_trainer.cli.train_flags import train_parser
from higgs_audio_trainer.config import flags
from higgs_audio_trainer.events import EVENTS, Modality, Split

_PROG = "higgs-audio-trainer"
_SHELLS = ("bash", "zsh", "fish")

#: Kinds of paths by argument name. A parser takes the paths as text.
_PATHS = {
    "train_manifest": shtab.FILE,
    "eval_manifest": shtab.FILE,
    "base_ckpt": shtab.DIRECTORY,
    "audio_tokenizer": shtab.DIRECTORY,
    "codes_dir": shtab.DIRECTORY,
    "output_dir": shtab.DIRECTORY,
}
#: Values to offer by argument name. A parser takes the values as text.
_CHOICES = {
    "event": tuple(EVENTS),
    "modality": get_args(Modality),
    "split": get_args(Split),
    "sinks": ("console,jsonl", "console", "jsonl", "none", "console,jsonl,trackio", "console,jsonl,tensorboard"),
    **{item.name: item.metadata["choices"] for item in flags() if item.metadata["choices"]},
}


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Print a script that completes commands, flags, events and files on Tab.",
        epilog="to install it in bash, zsh (after compinit) or fish:\n"
        f"  echo 'eval \"$({prog} bash)\"' >> ~/.bashrc\n"
        f"  echo 'eval \"$({prog} zsh)\"' >> ~/.zshrc\n"
        f"  echo '{prog} fish|source' >>~/.config/fish/config.fish\n"
        "\n"
        f'example: eval "$({prog} bash)"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=" or ".join(_SHELLS))
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Print the script and return the exit status."""
    given = parser(prog).parse_args(arguments)
    print(shtab.complete(_parser_of_all(), given.shell))
    return 0


def _parser_of_all() -> ArgumentParser:
    """Return a parser of the whole command line with the values for shtab to offer."""
    whole = train_parser(_PROG)  # flags without a command mean train
    whole.add_argument("--version", action="store_true", help="print the version and exit")
    commands = whole.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        module = import_module(f"higgs_audio_trainer.cli.{name.replace('-', '_')}")
        own: ArgumentParser = module.parser(f"{_PROG} {name}")
        commands.add_parser(name, parents=[own], add_help=False, help=text, description=text)
        _add_values(own)
    _add_values(whole)
    return whole


def _add_values(parser: ArgumentParser) -> None:
    """Set the values of each argument for shtab to offer. Parsers made from this parser share the arguments."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to the arguments of a parser
        action.help = described(action)  # shtab omits an argument that the help omits
        if action.option_strings and action.nargs == argparse.OPTIONAL:
            action.nargs = 0  # the value may be absent, and a shell would take the next flag for the value
        elif action.nargs == 0 or action.choices is not None:
            continue
        elif action.dest in _CHOICES:
            action.choices = _CHOICES[action.dest]
        elif action.dest in _PATHS or action.metavar == "DIR":
            action.complete = _PATHS.get(action.dest, shtab.DIRECTORY)  # type: ignore[attr-defined]
        elif action.metavar == "FILE" or not action.option_strings:  # every other positional argument is a log
            action.complete = shtab.FILE  # type: ignore[attr-defined]
            if action.help == argparse.SUPPRESS:
                action.help = str(action.metavar)  # shtab omits an argument that the help omits
