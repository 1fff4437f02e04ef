"""Argument parser of every command, and parsers of shared values."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

from higgs_audio_trainer.errors import UserError

_NEAR = 0.8  # similarity of a mistyped flag: that of lora_rnk to lora_rank, not of device to dtype
_TRUE = {"true", "yes", "1", "on"}
_FALSE = {"false", "no", "0", "off"}
_DEFAULT_COLUMNS, _MARGIN = 80, 2  # of the help, the same as in argparse
_MAX_COLUMNS = 9_999


class ArgumentParser(argparse.ArgumentParser):
    """Argument parser with errors of type `UserError`. Accepts `--a-b` for `--a_b` and vice versa.

    Attributes:
        help_flag: Flag named in error messages.

    Example:
        >>> parser = ArgumentParser(prog="show")
        >>> action = parser.add_argument("--all-attempts", action="store_true")
        >>> parser.parse_args(["--all_attempts"])
        Namespace(all_attempts=True)
    """

    def __init__(
        self, formatter_class: Callable[..., argparse.HelpFormatter] = argparse.HelpFormatter, **settings: Any
    ) -> None:
        formatter = partial(formatter_class, width=_terminal_columns() - _MARGIN)
        super().__init__(allow_abbrev=False, formatter_class=formatter, **settings)
        self.help_flag = "--help"
        self.register("type", int, _parse_integer)  # in place of argparse's "invalid int value"
        self.register("type", float, _parse_number)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse arguments. Report an unknown flag before a missing argument: the first often causes the second."""
        declared = {flag.replace("_", "-") for flag in self._option_string_actions}
        for argument in args or ():
            if argument == "--":
                break
            name = argument.partition("=")[0]
            if name.startswith("--") and " " not in name and name.replace("_", "-") not in declared:
                raise UserError(self._unknown(argument))
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UserError(self._unknown(rest[0]))
        return parsed

    def long_flags(self) -> list[str]:
        """Return the flags that begin with two dashes."""
        return [flag for flag in self._option_string_actions if flag.startswith("--")]

    def _unknown(self, argument: str) -> str:
        """Return the message for an unknown flag or a further word.

        Example:
            >>> ArgumentParser(prog="show")._unknown("--hel")
            '--hel: expected a known flag. Did you mean --help? See show --help.'
            >>> ArgumentParser(prog="show")._unknown("run-2")
            "expected no further argument, got 'run-2'. See show --help."
        """
        if not argument.startswith("-"):
            return f"expected no further argument, got {argument!r}. See {self.prog} {self.help_flag}."
        hint = near_name(argument.partition("=")[0], self.long_flags())
        return f"{argument}: expected a known flag.{hint} See {self.prog} {self.help_flag}."

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse arguments after each flag is respelled as declared."""
        declared = {flag.replace("_", "-"): flag for flag in self._option_string_actions}
        return super().parse_known_args([_respelled(argument, declared) for argument in args or ()], namespace)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with a reference to the help."""
        # argparse names an argument with all its spellings: "argument --lr/--learning_rate: ..."
        message = re.sub(r"^argument ([^\s/]+)(?:/\S+)?: ", r"\1: ", message)
        message = re.sub(r"^the following arguments are required: (.*)", r"\1: expected a value, got none", message)
        message = message.replace("expected one argument", "expected a value, got none")
        message = message.replace("ignored explicit argument", "expected no value, got")
        raise UserError(f"{message}. See {self.prog} {self.help_flag}.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"expected one of {choices}, got {value!r}")

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:  # argparse ignores an error of the stream here; `main` must see the error
            (file or sys.stderr).write(message)


def near_name(name: str, known: Iterable[str]) -> str:
    """Return the question whether the user meant the known name nearest to a mistyped one; empty without a near one.

    Near is a name with nearly the same letters, or the shortest one that begins with the whole mistyped name.

    Args:
        name: Mistyped flag with its dashes, or mistyped key of a YAML file.
        known: Flags with their dashes, or keys.

    Example:
        >>> near_name("--lora-rank", ["--lora_r", "--lora_alpha"]), near_name("batch", ["batch_size"])
        (' Did you mean --lora_r?', ' Did you mean batch_size?')
        >>> near_name("--device", ["--dtype", "--do_predict"])
        ''
    """
    from difflib import get_close_matches

    wanted = _plain(name)
    by_letters = {_plain(item): item for item in known}
    nearest = get_close_matches(wanted, by_letters, n=1, cutoff=_NEAR)
    nearest = nearest or sorted((item for item in by_letters if item.startswith(f"{wanted}_")), key=len)
    return f" Did you mean {by_letters[nearest[0]]}?" if nearest and nearest[0] != wanted else ""


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def unlist(action: argparse.Action) -> None:
    """Leave an argument out of the help, which fits a screen. The reference and the completion have it all the same.

    Example:
        >>> action = ArgumentParser(prog="show").add_argument("--rare", help="for rare cases")
        >>> unlist(action)
        >>> action.help, described(action)
        ('==SUPPRESS==', 'for rare cases')
    """
    action.unlisted_help = action.help  # type: ignore[attr-defined]
    action.help = argparse.SUPPRESS


def described(action: argparse.Action) -> str | None:
    """Return the help of an argument, also of an argument that the help leaves out."""
    text: str | None = getattr(action, "unlisted_help", action.help)
    return text


def add_switch(parser: argparse.ArgumentParser, flag: str, text: str) -> argparse.Action:
    """Add and return a flag that is off by default, and on alone or with a value such as `true`.

    Args:
        parser: Parser of a command.
        flag: Name of the flag with its dashes.
        text: Help of the flag.

    Example:
        >>> parser = ArgumentParser(prog="prepare")
        >>> action = add_switch(parser, "--strict", "be strict")
        >>> [parser.parse_args(arguments).strict for arguments in ([], ["--strict"], ["--strict=no"])]
        [False, True, False]
    """
    return parser.add_argument(
        flag, metavar="BOOL", type=parse_boolean, nargs="?", const=True, default=False, help=text
    )


def add_quantization(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--load_in_4bit` and `--load_in_8bit`. See `bits_of`.

    Args:
        parser: Parser of a command.
        text: Help of both, with `{}` in the places of the bits of the flag and of the other flag.
    """
    add_switch(parser, "--load_in_4bit", text.format(4, 8))
    unlist(add_switch(parser, "--load_in_8bit", text.format(8, 4)))


def bits_of(given: argparse.Namespace) -> int | None:
    """Return 4, 8, or None for a model in full.

    Raises:
        UserError: Both flags are given.

    Example:
        >>> bits_of(argparse.Namespace(load_in_4bit=True, load_in_8bit=False))
        4
    """
    if given.load_in_4bit and given.load_in_8bit:
        raise UserError("--load_in_4bit: expected no --load_in_8bit beside it, got both. Leave one out")
    return 4 if given.load_in_4bit else 8 if given.load_in_8bit else None


def _respelled(argument: str, declared: dict[str, str]) -> str:
    """Return an argument with its flag in the declared spelling, and with the home folder in place of `~`.

    A shell leaves the `~` in `--flag=~/path`.

    Example:
        >>> _respelled("--log-steps=5", {"--log-steps": "--log_steps"})
        '--log_steps=5'
    """
    if "~" in argument:
        from higgs_audio_trainer.config import expanded  # the settings of a training are slow to import

    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return expanded(argument, "argument") if argument.startswith("~/") else argument
    if value.startswith("~/"):
        value = expanded(value, name)
    return declared.get(name.replace("_", "-"), name) + equals + value


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from error


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from error


def _terminal_columns() -> int:
    """Return the width of the terminal. `shutil.get_terminal_size` costs a tenth of the time of `--help`."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _DEFAULT_COLUMNS  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # no stdout, a closed stdout, not a terminal
        return _DEFAULT_COLUMNS


def parse_boolean(text: str) -> bool:
    """Parse the value of a switch: true or false, yes or no, 1 or 0, on or off.

    Raises:
        argparse.ArgumentTypeError: The text is another word.

    Example:
        >>> parse_boolean("Yes"), parse_boolean("off")
        (True, False)
    """
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return lowered in _TRUE


def parse_runs(ids: Sequence[str]) -> str | tuple[str, str] | None:
    """Return the ids of `--run` for a comparison of two logs: for both logs, or one for each.

    Raises:
        UserError: The flag is given more than twice.

    Example:
        >>> parse_runs([]), parse_runs(["a1b2"]), parse_runs(["a1b2", "c3d4"])
        (None, 'a1b2', ('a1b2', 'c3d4'))
    """
    if len(ids) > 2:  # noqa: PLR2004 - two logs
        raise UserError(f"--run: expected at most one run for each of the two logs, got {len(ids)}")
    return (ids[0], ids[1]) if len(ids) > 1 else ids[0] if ids else None


def parse_width(text: str | None) -> int | None:
    """Parse the value of `--width`, in columns.

    Raises:
        UserError: The text is not an integer from 20 to 9,999.

    Example:
        >>> parse_width("80"), parse_width(None)
        (80, None)
    """
    if text is None:
        return None
    from sinks.terminal.fold import NARROWEST  # imported here because `--help` loads no sinks

    columns = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_COLUMNS)) else 0
    if columns < NARROWEST:
        raise UserError(f"--width: expected columns from {NARROWEST} to {_MAX_COLUMNS:,}, got {text!r}")
    return columns
