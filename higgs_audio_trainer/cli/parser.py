"""The argument parser of every command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from higgs_audio_trainer.errors import UserError

_TRUE = {"true", "yes", "1", "on"}
_FALSE = {"false", "no", "0", "off"}


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`, like every other bad input, and which takes `--a-b` and `--a_b` alike."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse arguments, with flags spelt as they were declared."""
        return super().parse_known_args([self._spelt(argument) for argument in args or ()], namespace)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, with the way to the help."""
        raise UserError(f"{message}. See {self.prog} --help.")

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:  # argparse itself would say nothing where it cannot be written
            (file or sys.stderr).write(message)

    def _spelt(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            return argument
        known = {flag.replace("_", "-"): flag for flag in self._option_string_actions}
        return known.get(name.replace("_", "-"), name) + equals + value


def parse_boolean(text: str) -> bool:
    """Read a switch: true or false, yes or no, 1 or 0, on or off."""
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return lowered in _TRUE
