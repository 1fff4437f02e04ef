"""Flags of `train`, read from the command line and a YAML file into `TrainSettings`.

One parser reads our flags and the arguments of `transformers.TrainingArguments`. The parser gets the latter only when a
flag or a YAML key is not ours, because importing transformers takes seconds. Flags override the YAML file.
"""

from __future__ import annotations

import argparse
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from higgs_audio_trainer.cli.argument_parser import ArgumentParser, parse_boolean
from higgs_audio_trainer.config import GROUPS, RESUME_LATEST, TrainSettings, default_of, expanded, flags
from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.third_party_imports import prepare_imports

_SCREEN_COLUMNS = 79
#: Flags in the short help with an explanation.
_COMMON = frozenset(
    (
        *("train_manifest", "eval_manifest", "output_dir", "base_ckpt", "batch_size", "lr"),
        *("resume", "log_steps", "sinks"),
    )
)
#: Settings whose value is a list, in YAML or separated by commas.
_COMMA_SEPARATED = frozenset(
    (
        *("sinks", "processors", "lora_targets", "log_codebooks", "report_to"),
        *("train", "freeze", "lora_layers", "modules_to_save"),
    )
)
_NONE = frozenset(("sinks", "processors", "report_to"))  # an empty list is "none"
_VALUES = {int: "an integer", float: "a number", bool: "true or false"}
_TITLES = {"lora": "LoRA"}  # of groups whose title is not the name


class _Joined(argparse.Action):
    """Action to store one or several values as a comma-separated list: `a,b` and `a b` are the same."""

    def __call__(self, _parser: Any, namespace: Any, values: Any, _option: str | None = None) -> None:
        setattr(namespace, self.dest, ",".join(values))


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
    groups = {name: parser.add_argument_group(_TITLES.get(name, name)) for name in GROUPS}
    for item in flags():
        names = [f"--{name}" for name in (item.name, *item.metadata["aliases"])]
        groups[item.metadata["group"]].add_argument(*names, dest=item.name, help=_help_of(item), **_value_of(item))
    return parser


def _value_of(item: Field[Any]) -> dict[str, Any]:
    value_type = _types()[item.name]
    if value_type is bool:
        return {"type": parse_boolean, "nargs": "?", "const": True, "metavar": "true|false"}
    if item.name == "resume":
        return {"nargs": "?", "const": RESUME_LATEST, "metavar": "CHECKPOINT"}
    if item.name in _COMMA_SEPARATED:
        return {"nargs": "+", "action": _Joined, "metavar": "TEXT"}
    return {"type": value_type, "metavar": {int: "N", float: "X", str: "TEXT"}[value_type]}


@cache
def _types() -> dict[str, type]:
    """Return the type of each setting, without None."""
    hints = typing.get_type_hints(TrainSettings)
    return {
        name: next(part for part in typing.get_args(hint) if part is not types.NoneType)
        if isinstance(hint, types.UnionType)
        else hint
        for name, hint in hints.items()
    }


@cache
def _settings_by_name() -> dict[str, Field[Any]]:
    """Return our settings by name and by alias."""
    return {name: item for item in flags() for name in (item.name, *item.metadata["aliases"])}


def _add_training_arguments(parser: ArgumentParser) -> dict[str, argparse.Action]:
    """Add the arguments of `transformers.TrainingArguments` without a setting of ours.

    Returns:
        The first argument of each field, by the name of the field.
    """
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
    arguments: Sequence[str], prog: str, defaults: Mapping[str, Any] = MappingProxyType({})
) -> TrainSettings | str:
    """Return the settings from the command line of `train` and its YAML file, or the text of a help.

    Args:
        arguments: Arguments after the name of the command.
        prog: Name of the program and the command, for messages.
        defaults: Values of settings that are given nowhere.

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
    ours, config = _settings_by_name(), given.get("config")
    yaml = {} if config is None else _read_yaml(config)
    theirs = _add_training_arguments(parser) if unknown or not yaml.keys() <= ours.keys() else {}
    settings: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in yaml.items():
        if key in ours:
            name, where = ours[key].name, f"{config}: {key}"
            converted = _converted(ours[key], value, where)
            if settings.setdefault(name, converted) != converted:
                raise UserError(f"{where}: expected one value for {name}, got two different values")
        elif key in theirs:
            extra[key] = _converted_by(parser, key, value, str(config))
        else:
            raise UserError(f"{config}: {key}: expected a known setting.{_suggestion(str(key), theirs)}")
    if unknown:
        parsed, unknown = parser.parse_known_args(arguments)
        given = vars(parsed)
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0].replace("-", "_")
        raise UserError(f"{unknown[0]}: expected a known flag.{_suggestion(name, theirs, '--')} See {prog} --help.")
    settings |= {name: value for name, value in given.items() if name in ours}
    extra |= {name: value for name, value in given.items() if name in theirs}
    return TrainSettings(**{**defaults, **settings}, extra=extra)


def _suggestion(name: str, theirs: Mapping[str, Any], prefix: str = "") -> str:
    return suggestion(name, [*_settings_by_name(), *theirs, "config"], cutoff=0.5, prefix=prefix)


def _read_yaml(path: str) -> Mapping[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(expanded(path, "--config")).read_bytes()) or {}
    except OSError as error:
        raise UserError(f"--config: {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"--config {path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"--config {path}: expected keys and values, got {type(content).__name__}")
    return content


def _converted(item: Field[Any], value: Any, where: str) -> Any:
    """Return the value of a setting for a value of YAML.

    Example:
        >>> _converted(_settings_by_name()["log_codebooks"], [0, 3], "run.yaml: log_codebooks")
        '0,3'
    """
    value_type = _types()[item.name]
    if value is None:
        return default_of(item)
    if item.name in _COMMA_SEPARATED and isinstance(value, list):
        value = ",".join(map(str, value)) or ("none" if item.name in _NONE else "")
    if item.name == "resume" and isinstance(value, bool):
        return RESUME_LATEST if value else None
    try:
        if value_type is bool:
            return value if isinstance(value, bool) else parse_boolean(str(value))
        if value_type is not str and isinstance(value, bool):
            raise ValueError("a boolean")  # noqa: TRY301 - joins the errors of float() and int()
        converted = value_type(value)
        if value_type is int and isinstance(value, float) and converted != value:
            raise ValueError("a fraction")  # noqa: TRY301
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{where}: expected {_VALUES[value_type]}, got {value!r}") from error
    return converted


def _converted_by(parser: ArgumentParser, key: str, value: Any, path: str) -> Any:
    """Return a value of YAML with the type of a flag. PyYAML reads 1e-8 as text."""
    if value is None or isinstance(value, (list, dict)):
        return value
    try:
        return vars(parser.parse_args([f"--{key}={value}"]))[key]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _help_of(item: Field[Any]) -> str:
    default, text = default_of(item), str(item.metadata["help"])
    if default in (None, "") or "[" in text:
        return text
    return f"{text} [{str(default).lower() if isinstance(default, bool) else default}]"


def _short_help(parser: ArgumentParser) -> str:
    """Return the help of one screen, with common flags explained and other flags by name."""
    lines = [f"usage: {parser.usage}", "", str(parser.description), ""]
    for item in flags():
        if item.name in _COMMON:
            line = f"  --{item.name:<14} "
            with_default = line + _help_of(item)
            lines.append(with_default if len(with_default) <= _SCREEN_COLUMNS else line + item.metadata["help"])
    others = " ".join(item.name for item in flags() if item.name not in _COMMON)
    more = f"more flags, see --help_all: config {others}"
    lines += textwrap.wrap(more, _SCREEN_COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, str(parser.epilog)])


def _full_help(parser: ArgumentParser) -> str:
    """Return the help of all flags, a line each, then of the arguments of transformers."""
    lines = [f"usage: {parser.usage}", "", str(parser.description), ""]
    for name in GROUPS:
        lines.append(f"{_TITLES.get(name, name)}:")
        lines += [f"  --{item.name:<22} {_help_of(item)}" for item in flags() if item.metadata["group"] == name]
    lines += ["other:", "  --config FILE            YAML with any of these; flags win", "", str(parser.epilog)]
    lines += ["", "transformers.TrainingArguments:"]
    for name, action in _add_training_arguments(parser).items():
        text = " ".join((action.help or "").split())
        lines.append(f"  --{name:<34} " + textwrap.shorten(text, 100, placeholder=" ..."))
    return "\n".join([*lines, ""])
