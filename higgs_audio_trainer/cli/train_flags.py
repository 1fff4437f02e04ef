"""Flags of `train`, read from the command line and a YAML file into `TrainSettings`.

One parser reads our flags and the arguments of `transformers.TrainingArguments`. The parser gets the latter only when a
flag or a YAML key is not ours, because importing transformers takes seconds. Flags override the YAML file.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field
from functools import cache
from types import MappingProxyType
from typing import Any

from higgs_audio_trainer.cli import COMMANDS
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, near_name, parse_boolean
from higgs_audio_trainer.cli.config_file import (
    COMMA_SEPARATED,
    argument_of,
    as_yaml,
    read_config_file,
    setting_of,
    types_of_settings,
)
from higgs_audio_trainer.cli.limits_flag import MEANING, add_no_limits
from higgs_audio_trainer.config import GROUPS, REQUIRED, RESUME_LATEST, TrainSettings, default_of, flags
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.phases import phase
from higgs_audio_trainer.third_party_imports import prepare_imports

_SCREEN_COLUMNS = 79
_EXPLAINED_AT = 27  # column of explanations in the full help
_MOST_OF_A_HELP = 200  # letters of an explanation of transformers, some of which are pages
#: Flags in the short help with an explanation.
_COMMON = frozenset(
    (
        *("train_manifest", "eval_manifest", "output_dir", "base_ckpt", "batch_size", "lr"),
        *("resume", "log_steps", "sinks"),
    )
)
_NAMES = "names of settings"  # where a namespace keeps the values by setting and name; no flag is so called
_TITLES = {"lora": "LoRA"}  # of groups whose title is not the name


class _Setting(argparse.Action):
    """Action to store the value of a setting, and the last value that each of its names was given.

    The values of a list are joined by commas: `a,b` and `a b` are the same.
    """

    def __call__(self, _parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        value = ",".join(values) if self.nargs == "+" else values
        setattr(namespace, self.dest, value)
        by_name = vars(namespace).setdefault(_NAMES, {}).setdefault(self.dest, {})
        by_name[option] = value


def train_parser(prog: str) -> ArgumentParser:
    """Return the parser of our flags of `train`. An absent flag sets nothing."""
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} --train_manifest FILE --output_dir DIR [flags]",
        description="Fine-tune Higgs Audio v2 or Higgs TTS 3 and print predictions during training.",
        epilog="example: torchrun --nproc_per_node=8 -m higgs_audio_trainer --config run.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="print this help and exit")
    parser.add_argument("--help_all", action="store_true", help="print the help of all flags and exit")
    parser.add_argument("--config", metavar="FILE", help="YAML file with flags; the command line overrides it")
    parser.add_argument("--print_config", action="store_true", help="print all settings as such a file, and exit")
    add_no_limits(parser)
    groups = {name: parser.add_argument_group(_TITLES.get(name, name)) for name in GROUPS}
    for item in flags():
        names = [f"--{name}" for name in (item.name, *item.metadata["aliases"])]
        groups[item.metadata["group"]].add_argument(
            *names, dest=item.name, action=_Setting, help=_help_of(item), **_value_of(item)
        )
    return parser


def _value_of(item: Field[Any]) -> dict[str, Any]:
    value_type = types_of_settings()[item.name]
    if value_type is bool:
        return {"type": parse_boolean, "nargs": "?", "const": True, "metavar": "true|false"}
    if item.name == "resume":
        return {"nargs": "?", "const": RESUME_LATEST, "metavar": "CHECKPOINT"}
    if item.name in COMMA_SEPARATED:
        return {"nargs": "+", "metavar": "TEXT"}
    return {"type": value_type, "metavar": {int: "N", float: "X", str: "TEXT"}[value_type]}


@cache
def _settings_by_name() -> dict[str, Field[Any]]:
    """Return our settings by name and by alias."""
    return {name: item for item in flags() for name in (item.name, *item.metadata["aliases"])}


def _add_training_arguments(parser: ArgumentParser) -> dict[str, argparse.Action]:
    """Add the arguments of `transformers.TrainingArguments` without a setting of ours.

    Returns:
        The first argument of each field, by the name of the field.
    """
    with phase("loading transformers", is_slow=True):
        prepare_imports()
        from transformers import HfArgumentParser, TrainingArguments

    parser.help_flag = "--help_all"
    group = parser.add_argument_group("transformers.TrainingArguments")
    added: dict[str, argparse.Action] = {}
    theirs = HfArgumentParser(TrainingArguments, add_help=False)  # type: ignore[arg-type]  # a dataclass
    for action in theirs._actions:  # noqa: SLF001 - argparse has no other way to the arguments of a parser
        if action.dest not in _settings_by_name():
            action.default = argparse.SUPPRESS
            group._add_action(action)  # noqa: SLF001 - add_argument would build the argument again
            added.setdefault(action.dest, action)
    return added


def parse_train(
    arguments: Sequence[str],
    prog: str,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    others: Collection[str] = (),
) -> TrainSettings | str:
    """Return the settings from the command line of `train` and its YAML file, or the text of a help or YAML to print.

    Args:
        arguments: Arguments after the name of the command.
        prog: Name of the program and the command, for messages.
        defaults: Values of settings that are given nowhere.
        others: Further flags of the command, with their dashes, which a mistyped flag may be near to.

    Raises:
        UserError: An argument, a key of the YAML file or a value is wrong.

    Example:
        >>> parse_train(["--train_manifest", "m.jsonl", "--output_dir", "out", "--learning-rate=1e-3"], "train").lr
        0.001
    """
    parser = train_parser(prog)
    parsed, unknown = parser.parse_known_args(arguments)
    given = vars(parsed)
    if "help" in given:
        return _short_help(parser)
    if "help_all" in given:
        return _full_help(parser)
    config = given.get("config")
    yaml = {} if config is None else read_config_file(config)
    theirs = _add_training_arguments(parser) if unknown or not yaml.keys() <= _settings_by_name().keys() else {}
    settings, extra = _of_yaml(yaml, str(config), parser, theirs)
    if unknown:
        parsed, unknown = parser.parse_known_args(arguments)
        given = vars(parsed)
    if unknown:
        raise UserError(f"{unknown[0]}: expected a known flag.{_near(unknown[0], theirs, others)} See {prog} --help.")
    _check_names(given)
    settings |= {name: value for name, value in given.items() if name in _settings_by_name()}
    extra |= {name: value for name, value in given.items() if name in theirs}
    settings = {**defaults, **settings}
    if "print_config" in given:
        missing = [name for name in REQUIRED if not settings.get(name)]
        return as_yaml(TrainSettings(**{**settings, **dict.fromkeys(missing, "?")}, extra=extra), missing)
    return TrainSettings(**settings, extra=extra)


def _of_yaml(
    yaml: Mapping[Any, Any], path: str, parser: ArgumentParser, theirs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our settings and the arguments of transformers in a YAML file."""
    ours = _settings_by_name()
    settings: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in yaml.items():
        if key in ours:
            name, where = ours[key].name, f"{path}: {key}"
            converted = setting_of(ours[key], value, where)
            known = settings.setdefault(name, converted)
            if known is not converted and known != converted:  # NaN differs from itself
                raise UserError(f"{where}: expected one value for {name}, got two different values")
        elif key in theirs:
            extra[key] = argument_of(parser, key, value, path)
        else:
            raise UserError(f"{path}: {key}: expected a known setting.{near_name(str(key), [*ours, *theirs])}")
    return settings, extra


def _near(argument: str, theirs: Mapping[str, Any], others: Collection[str]) -> str:
    if not argument.startswith("-"):  # a word that belongs to no flag
        return " Put the command before its flags." if argument in COMMANDS else ""
    known = [*_settings_by_name(), *theirs, "config", "help", "help_all", "print_config", "no_limits", "version"]
    return near_name(argument.partition("=")[0], [*others, *(f"--{name}" for name in known)])


def _check_names(given: Mapping[str, Any]) -> None:
    """Check that all names of a setting on the command line have one value. Of one name, the last value counts.

    Raises:
        UserError: Two names have different values.
    """
    for by_name in given.get(_NAMES, {}).values():
        if len(set(map(str, by_name.values()))) > 1:  # as text, since NaN differs from itself
            pairs = " and ".join(f"{name} {value}" for name, value in by_name.items())
            raise UserError(f"{pairs}: expected one value, since both are names of one setting. Leave one out.")


def _help_of(item: Field[Any]) -> str:
    default, text = default_of(item), str(item.metadata["help"])
    if default in (None, "") or "[" in text:
        return text
    return f"{text} [{str(default).lower() if isinstance(default, bool) else default}]"


def _short_help(parser: ArgumentParser) -> str:
    """Return the help of one screen, with common flags explained and other flags by name."""
    lines = [f"usage: {parser.usage}", str(parser.description), ""]
    for item in flags():
        if item.name in _COMMON:
            line = f"  --{item.name:<14} "
            with_default = line + _help_of(item)
            lines.append(with_default if len(with_default) <= _SCREEN_COLUMNS else line + item.metadata["help"])
    others = " ".join(item.name for item in flags() if item.name not in _COMMON)
    more = f"more flags, see --help_all: config print_config no_limits {others}"
    lines += textwrap.wrap(more, _SCREEN_COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, str(parser.epilog)])


def _explained(name: str, text: str) -> list[str]:
    """Return the lines of a flag and its explanation, folded to a screen.

    Example:
        >>> _explained("seed", "seed of all random generators [42]")
        ['  --seed                   seed of all random generators [42]']
    """
    first = f"  --{name}".ljust(_EXPLAINED_AT - 1) + " "
    indent = " " * _EXPLAINED_AT
    return textwrap.wrap(
        text, _SCREEN_COLUMNS, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    ) or [first.rstrip()]


def _full_help(parser: ArgumentParser) -> str:
    """Return the help of all flags, then of the arguments of transformers."""
    lines = [f"usage: {parser.usage}", "", str(parser.description), ""]
    for name in GROUPS:
        lines.append(f"{_TITLES.get(name, name)}:")
        for item in flags():
            if item.metadata["group"] == name:
                lines += _explained(item.name, _help_of(item))
    lines += ["other:", *_explained("config", "YAML file with any of these; flags on the command line override it")]
    lines += _explained("print_config", "print all settings as such a file, and exit")
    lines += [*_explained("no_limits", MEANING), "", str(parser.epilog)]
    lines += ["", "transformers.TrainingArguments:"]
    for name, action in _add_training_arguments(parser).items():
        text = " ".join((action.help or "").replace("%%", "%").split())
        lines += _explained(name, textwrap.shorten(text, _MOST_OF_A_HELP, placeholder=" ..."))
    return "\n".join([*lines, ""])
