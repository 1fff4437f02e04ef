"""Flags and YAML to `TrainSettings`: one table, two sources, the flags win."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, NoReturn

from higgs_audio_trainer.cli.parser import ArgumentParser, parse_boolean
from higgs_audio_trainer.config import GROUPS, RESUME_LATEST, TrainSettings, default_of, flags
from higgs_audio_trainer.errors import UserError, suggestion

_SCREEN_COLUMNS = 79
_COMMON = frozenset(
    (
        *("train_manifest", "eval_manifest", "output_dir", "base_ckpt", "epochs", "batch_size", "lr"),
        *("resume", "log_steps", "sinks", "log_codebooks"),
    )
)
_GROUP_TITLES = {
    "data": "data",
    "model": "model",
    "lora": "LoRA",
    "optimisation": "optimisation",
    "run": "run",
    "log": "log",
}


def _value_type(item: Field[Any]) -> type:
    hint = typing.get_type_hints(TrainSettings)[item.name]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast("type", hint)


def _names(item: Field[Any]) -> tuple[str, ...]:
    return (item.name, *item.metadata["aliases"])


def _canonical() -> dict[str, Field[Any]]:
    return {name: item for item in flags() for name in _names(item)}


def train_parser(prog: str) -> ArgumentParser:
    """Make the parser of `train`'s own flags; nothing is set that was not given."""
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} --train_manifest FILE --output_dir DIR [flags]",
        description="Fine-tune Higgs Audio v2 with LoRA and read what it predicts while it trains.",
        epilog="example: torchrun --nproc_per_node=8 -m higgs_audio_trainer --config run.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and exit")
    parser.add_argument("--help_all", action="store_true", help="show the arguments of TrainingArguments and exit")
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these; flags win")
    groups = {name: parser.add_argument_group(_GROUP_TITLES[name]) for name in GROUPS}
    for item in flags():
        groups[item.metadata["group"]].add_argument(*_flag_strings(item), **_argument(item))
    return parser


def _flag_strings(item: Field[Any]) -> list[str]:
    return [f"--{name}" for name in _names(item)]


class _Once(argparse.Action):
    """Keeps a flag's value, and refuses another one for the same thing under whichever name."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        seen = namespace.__dict__.setdefault("_given_as", {})
        if self.dest in seen and getattr(namespace, self.dest) != values:
            parser.error(
                f"{option_string}: expected one value for {self.dest}, got {values!r} here and "
                f"{getattr(namespace, self.dest)!r} in {seen[self.dest]}"
            )
        seen[self.dest] = option_string
        setattr(namespace, self.dest, values)


def _argument(item: Field[Any]) -> dict[str, Any]:
    value_type, default = _value_type(item), default_of(item)
    shown = (
        ""
        if default in (None, "") or "[" in item.metadata["help"]
        else f" [{str(default).lower() if isinstance(default, bool) else default}]"
    )
    common = {"dest": item.name, "action": _Once, "help": item.metadata["help"] + shown}
    if value_type is bool:
        return common | {"type": parse_boolean, "nargs": "?", "const": True, "metavar": "true|false"}
    if item.name == "resume":
        return common | {"nargs": "?", "const": RESUME_LATEST, "metavar": "CHECKPOINT"}
    metavar = {int: "N", float: "X", str: "TEXT"}[value_type]
    return common | {"type": value_type, "metavar": metavar}


def parse_train(arguments: Sequence[str], prog: str) -> TrainSettings | str:
    """Read the command line of `train`.

    Returns:
        The settings, or the text of the help that was asked for.

    Raises:
        UserError: an argument, a key of the YAML file or a value is wrong.
    """
    parser = train_parser(prog)
    known, rest = parser.parse_known_args([_with_underscores(argument) for argument in arguments])
    given = vars(known)
    given.pop("_given_as", None)
    if given.pop("help", False):
        return short_help(parser)
    if given.pop("help_all", False):
        return full_help(parser)
    settings, extra = _from_yaml(given.pop("config", None))
    settings.update(given)
    if rest:
        extra.update(_from_training_arguments(rest, prog))
    return TrainSettings(**settings, extra=extra)


def _with_underscores(argument: str) -> str:
    """Spell a flag as we do: Hugging Face's parsers take `--learning-rate` as well as `--learning_rate`."""
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if argument.startswith("--") else argument


def short_help(parser: argparse.ArgumentParser) -> str:
    """Format the help that fits a screen: the flags that most runs need, and the names of the others."""
    lines = [f"usage: {parser.usage}", "", str(parser.description), ""]
    lines += [_short_line_of(item) for item in flags() if item.name in _COMMON]
    others = " ".join(f"--{item.name}" for item in flags() if item.name not in _COMMON)
    more = f"more (--help_all): --config (YAML; flags win) {others}"
    lines += ["", *textwrap.wrap(more, _SCREEN_COLUMNS, subsequent_indent="  ", break_on_hyphens=False)]
    return "\n".join([*lines, "", str(parser.epilog)])


def full_help(parser: argparse.ArgumentParser) -> str:
    """Format the help of all flags, one line each, and of the arguments that transformers takes."""
    lines = [f"usage: {parser.usage}", "", str(parser.description), ""]
    for name in GROUPS:
        lines.append(f"{_GROUP_TITLES[name]}:")
        lines += [_line_of(item) for item in flags() if item.metadata["group"] == name]
    lines += ["other:", "  --config FILE            YAML with any of these; flags win", "", str(parser.epilog)]
    return "\n".join([*lines, *_rest_of_help(), ""])


def _line_of(item: Field[Any]) -> str:
    return f"  --{item.name:<22} {_argument(item)['help']}"


def _short_line_of(item: Field[Any]) -> str:
    name = f"  --{item.name:<14} "
    helps: tuple[str, str] = (
        _argument(item)["help"],
        item.metadata["help"],
    )  # with the default, where there is room for it
    return next((name + text for text in helps if len(name + text) <= _SCREEN_COLUMNS), name + helps[-1])


def _from_yaml(path: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    if path is None:
        return {}, {}
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_bytes()) or {}
    except OSError as error:
        raise UserError(f"--config: expected a YAML file, got {error.strerror} at {path}") from error
    except yaml.YAMLError as error:
        raise UserError(f"--config {path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"--config {path}: expected keys and values, got {type(content).__name__}")
    ours = _canonical()
    settings: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in content.items():
        if key in ours:
            item = ours[key]
            converted = _convert(item, value, f"{path}: {key}")
            if settings.setdefault(item.name, converted) != converted:
                raise UserError(f"{path}: {key}: expected one value for {item.name}, got two different ones")
        elif key in _training_argument_names():
            extra.update(_typed_extra(str(key), value))
        else:
            raise UserError(f"{path}: {key}: expected a known setting.{_suggestion(str(key))}")
    return settings, extra


def _typed_extra(key: str, value: Any) -> dict[str, Any]:
    """Read a scalar of YAML as the command line would: PyYAML takes 1e-8 for a text."""
    if value is None or isinstance(value, (list, dict)):
        return {key: value}
    return _from_training_arguments([f"--{key}", str(value)], "train")


def _convert(item: Field[Any], value: Any, where: str) -> Any:
    value_type = _value_type(item)
    if value is None:
        return default_of(item)
    if item.name in ("sinks", "lora_targets", "log_codebooks", "report_to") and isinstance(value, list):
        value = ",".join(map(str, value))
    if item.name == "resume" and isinstance(value, bool):
        return RESUME_LATEST if value else None
    try:
        if value_type is bool:
            return value if isinstance(value, bool) else parse_boolean(str(value))
        if value_type is not str and isinstance(value, bool):
            raise ValueError("a boolean")  # noqa: TRY301 - joins what float() and int() raise
        converted = value_type(value)
        if value_type is int and isinstance(value, float) and converted != value:
            raise ValueError("a fraction")  # noqa: TRY301
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{where}: expected {value_type.__name__}, got {value!r}") from error
    return converted


def _from_training_arguments(rest: Sequence[str], prog: str) -> dict[str, Any]:
    parser = _training_arguments_parser(prog)
    given, unknown = parser.parse_known_args(list(rest), namespace=argparse.Namespace())
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        raise UserError(f"{unknown[0]}: expected a known flag.{_suggestion(name)} See {prog} --help.")
    return vars(given)


def _training_arguments_parser(prog: str) -> argparse.ArgumentParser:
    from transformers import HfArgumentParser, TrainingArguments

    class Parser(HfArgumentParser):  # type: ignore[misc, unused-ignore]
        def error(self, message: str) -> NoReturn:
            raise UserError(f"{message}. See {prog} --help_all.")

    parser = Parser(TrainingArguments, prog=prog, allow_abbrev=False)  # type: ignore[arg-type]  # it is a dataclass
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to drop the defaults of a built parser
        action.default = argparse.SUPPRESS
    return parser


def _training_argument_names() -> set[str]:
    from transformers import TrainingArguments

    return {item.name for item in dataclasses.fields(TrainingArguments)}


def _rest_of_help() -> list[str]:
    from transformers import TrainingArguments

    lines = ["", "transformers.TrainingArguments:"]
    for item in dataclasses.fields(TrainingArguments):
        if item.name not in _canonical():
            text = " ".join(str(item.metadata.get("help", "")).split())
            lines.append(f"  --{item.name:<34} " + textwrap.shorten(text, 100, placeholder=" ..."))
    return lines


def _suggestion(name: str) -> str:
    known = [*_canonical(), *_training_argument_names(), "config"]
    return suggestion(name, known, cutoff=0.5)
