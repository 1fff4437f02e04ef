"""The YAML file of `--config`: its values become settings, and `--print_config` writes settings as such a file."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field
from datetime import date
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from higgs_audio_trainer.bounds import MAX_YAML_BYTES
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, parse_boolean
from higgs_audio_trainer.config import GROUPS, RESUME_LATEST, TrainSettings, default_of, expanded, flags
from higgs_audio_trainer.documents import load_yaml, read_document, shown
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.redaction import redacted

#: Settings whose value is a list, in YAML or separated by commas.
COMMA_SEPARATED = frozenset(
    (
        *("sinks", "processors", "lora_targets", "log_codebooks", "report_to"),
        *("train", "freeze", "lora_layers", "modules_to_save"),
    )
)
_NONE = frozenset(("sinks", "processors", "report_to"))  # an empty list is "none"
_VALUES = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
_SCALARS = (str, int, float, date)  # of YAML, with bool and without bytes


@cache
def types_of_settings() -> dict[str, type]:
    """Return the type of each setting, without None."""
    hints = typing.get_type_hints(TrainSettings)
    return {
        name: next(part for part in typing.get_args(hint) if part is not types.NoneType)
        if isinstance(hint, types.UnionType)
        else hint
        for name, hint in hints.items()
    }


def read_config_file(path: str) -> Mapping[Any, Any]:
    """Return the keys and values of a YAML file.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        content = load_yaml(read_document(Path(expanded(path, "--config")), MAX_YAML_BYTES)) or {}
    except OSError as error:
        raise UserError(f"--config: {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--config {path}: expected YAML, got: {one_line(error)}. Correct the file") from error
    if not isinstance(content, Mapping):
        raise UserError(f"--config {path}: expected keys and values, got {type(content).__name__}")
    return content


def setting_of(item: Field[Any], value: Any, where: str) -> Any:
    """Return the value of a setting for a value of YAML.

    Args:
        item: Setting.
        value: Value of YAML. None for the default.
        where: File and key, for messages.

    Raises:
        UserError: The value has another type.

    Example:
        >>> item = next(item for item in flags() if item.name == "log_codebooks")
        >>> setting_of(item, [0, 3], "run.yaml: log_codebooks")
        '0,3'
    """
    value_type = types_of_settings()[item.name]
    if value is None:
        return default_of(item)
    if item.name in COMMA_SEPARATED and isinstance(value, list):
        value = ",".join(map(str, value)) or ("none" if item.name in _NONE else "")
    if item.name == "resume" and isinstance(value, bool):
        return RESUME_LATEST if value else None
    try:
        if value_type is bool:
            return value if isinstance(value, bool) else parse_boolean(str(value))
        if value_type in _VALUES and not isinstance(value, _SCALARS):
            raise ValueError("no scalar")  # noqa: TRY301
        if value_type is not str and isinstance(value, bool):
            raise ValueError("a boolean")  # noqa: TRY301 - joins the errors of float() and int()
        converted = value_type(value)
        if value_type is int and isinstance(value, float) and converted != value:
            raise ValueError("a fraction")  # noqa: TRY301
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{where}: expected {_VALUES[value_type]}, got {shown(value)}") from error
    return converted


def argument_of(parser: ArgumentParser, key: str, value: Any, path: str) -> Any:
    """Return a value of YAML with the type of a flag. PyYAML reads 1e-8 as text.

    Args:
        parser: Parser with the flag.
        key: Name of the flag.
        value: Value of YAML.
        path: The file, for messages.

    Raises:
        UserError: The value has another type.
    """
    if value is None or isinstance(value, (list, dict)):
        return value
    try:
        return vars(parser.parse_args([f"--{key}={value}"]))[key]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def as_yaml(settings: TrainSettings, missing: Collection[str] = ()) -> str:
    """Return settings as YAML, from which `--config` reads equal settings.

    A secret is left out, and a comment stands in its place.

    Args:
        settings: Settings.
        missing: Names of required settings that were not given. The file names them without a value.

    Example:
        >>> print(as_yaml(TrainSettings(train_manifest="a.jsonl", output_dir="out", lr=1e-5)))  # doctest: +ELLIPSIS
        # --config FILE reads these settings. Flags override them.
        <BLANKLINE>
        # data
        train_manifest: a.jsonl
        eval_manifest: null
        ...
    """
    return "\n".join(_yaml_lines(settings, missing))


def _yaml_lines(settings: TrainSettings, missing: Collection[str]) -> Iterator[str]:
    yield "# --config FILE reads these settings. Flags override them."
    for group in GROUPS:
        yield f"\n# {group}"
        for item in flags():
            if item.metadata["group"] == group:
                is_missing = item.name in missing
                yield (
                    f"{item.name}: null  # required" if is_missing else _entry(item.name, getattr(settings, item.name))
                )
    if settings.extra:
        yield "\n# transformers.TrainingArguments"
    for name, value in settings.extra.items():
        yield _entry(name, value)


def _entry(name: str, value: Any) -> str:
    import yaml

    if isinstance(value, list) and value and all(isinstance(item, Enum) for item in value):
        value = " ".join(str(item.value) for item in value)  # as on the command line
    if redacted(value, name) != value:
        return f"# {name}: left out, since the value holds a secret. Give it with --{name}"
    is_plain = str(value).isprintable()  # PyYAML folds lines at control characters that it does not escape
    style = None if is_plain or not isinstance(value, str) else '"'
    text: str = yaml.safe_dump(
        {name: value}, allow_unicode=is_plain, default_style=style, sort_keys=False, width=float("inf")
    )
    return text.rstrip("\n")
