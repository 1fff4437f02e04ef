"""The argument parser of every command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from higgs_audio_trainer.errors import UserError

_TRUE = {"true", "yes", "1", "on"}
_FALSE = {"false", "no", "0", "off"}
_COLUMNS, _MARGIN = 80, 2  # of the help, as argparse has it
_WIDEST = 10_000


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`, like every other bad input, and which takes `--a-b` and `--a_b` alike."""

    def __init__(
        self, formatter_class: Callable[..., argparse.HelpFormatter] = argparse.HelpFormatter, **settings: Any
    ) -> None:
        formatter = partial(formatter_class, width=_columns() - _MARGIN)
        super().__init__(allow_abbrev=False, formatter_class=formatter, **settings)

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


def _columns() -> int:
    """Return the width of the terminal. `shutil` has a function for it, and takes a tenth of the time of a --help."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _COLUMNS  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # there is none, it is closed, it is no terminal
        return _COLUMNS


def parse_boolean(text: str) -> bool:
    """Read a switch: true or false, yes or no, 1 or 0, on or off."""
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return lowered in _TRUE


def width_of(text: str | None) -> int | None:
    """Read `--width`.

    Raises:
        UserError: it is no number of columns that text can be folded in.
    """
    if text is None:
        return None
    from sinks.terminal.fold import NARROWEST

    number = int(text) if text.isascii() and text.isdigit() and len(text) < len(str(_WIDEST)) else 0
    if number < NARROWEST:
        raise UserError(f"--width: expected columns from {NARROWEST} to {_WIDEST - 1:,}, got {text!r}")
    return number
