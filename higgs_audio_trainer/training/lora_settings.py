"""Settings of the adapters: the flags of LoRA and the file of `--lora_config`, as peft's `LoraConfig`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from peft import LoraConfig

from higgs_audio_trainer.bounds import MAX_YAML_BYTES
from higgs_audio_trainer.config import TrainSettings, default_of, flags
from higgs_audio_trainer.documents import load_json, load_yaml, read_document
from higgs_audio_trainer.errors import UserError, one_line, suggestion

#: Fields of peft's `LoraConfig` that a flag names, with the flag and the type of the field.
_FLAGS: dict[str, tuple[str, Any]] = {
    "r": ("lora_r", int),
    "lora_alpha": ("lora_alpha", int),
    "lora_dropout": ("lora_dropout", float),
    "target_modules": ("lora_targets", list[str] | str | None),
    "layers_to_transform": ("lora_layers", list[int] | int | None),
    "bias": ("lora_bias", str),
    "use_rslora": ("use_rslora", bool),
    "use_dora": ("use_dora", bool),
    "init_lora_weights": ("init_lora_weights", bool | str),
    "modules_to_save": ("modules_to_save", list[str] | None),
}
_Positive = Annotated[int, msgspec.Meta(ge=1)]
#: Fields that no flag names, with their types. `lora_bias` of peft adds biases to the adapters.
_FURTHER: dict[str, Any] = {
    "rank_pattern": dict[str, _Positive] | None,
    "alpha_pattern": dict[str, _Positive] | None,
    "layers_pattern": list[str] | str | None,
    "exclude_modules": list[str] | str | None,
    "lora_bias": bool,
}
#: Entries of an adapter_config.json that tell of the adapter's file and not of its method.
_OF_A_FILE = frozenset(("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version"))
_TASK = "task_type"  # chooses a class of peft for tasks that a text model has. The model here speaks
_TYPE = "peft_type"
_LARGEST_RANGE = 2  # neighbours that are written as a range


def with_lora_config(settings: TrainSettings) -> TrainSettings:
    """Return the settings with the values of `--lora_config` in the settings of the flags.

    A flag at its default yields to the file.

    Raises:
        UserError: The file cannot be read, a field is unknown, a value cannot work here, or a flag contradicts it.
    """
    path = settings.lora_config
    if path is None:
        lora_config(settings)
        return settings
    where = f"--lora_config {path}"
    content = {name: value for name, value in _read(path).items() if not _is_neutral(name, value, where)}
    changes: dict[str, Any] = {}
    further: dict[str, Any] = {}
    for name, value in content.items():
        known = _FLAGS[name][1] if name in _FLAGS else _FURTHER[name]
        try:
            checked = msgspec.convert(value, known)
        except msgspec.ValidationError as error:
            raise UserError(f"{where}: {name}: {one_line(error)}") from error
        if name in _FURTHER:
            _check_expressions(name, checked, where)
            further[name] = checked
            continue
        if name == "target_modules" and isinstance(checked, str):
            _check_expressions(name, checked, where)
            further[name] = checked
        changes[_FLAGS[name][0]] = _as_setting(name, checked)
    for name, value in changes.items():
        _check_flag(settings, name, value, where)
    try:
        resolved = replace(settings, **changes, lora_fields=further)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    lora_config(resolved)
    return resolved


def lora_config(settings: TrainSettings) -> LoraConfig:
    """Return the settings of the adapters as peft's `LoraConfig`.

    Raises:
        UserError: peft refuses a combination of values.
    """
    starts = {"true": True, "false": False}
    saved = [name for part in (settings.modules_to_save or "").split(",") if (name := part.strip())]
    layers = settings.layers()
    try:
        return LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            layers_to_transform=None if layers is None else list(layers),
            bias=settings.lora_bias,  # type: ignore[arg-type]  # checked by the settings
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            init_lora_weights=starts.get(settings.init_lora_weights, settings.init_lora_weights),  # type: ignore[arg-type]
            modules_to_save=saved or None,
            **{"target_modules": list(settings.targets()), **settings.lora_fields},
        )
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"peft.LoraConfig: {one_line(error)}") from error


def check_layers(settings: TrainSettings, num_layers: int) -> None:
    """Check that the model has the layers of `--lora_layers`.

    Raises:
        UserError: The model has fewer layers.
    """
    layers = settings.layers()
    if layers is not None and layers[-1] >= num_layers:
        raise UserError(
            f"--lora_layers: expected layers from 0 to {num_layers - 1}, as the model has, got {layers[-1]}"
        )


def _read(path: str) -> dict[str, Any]:
    """Return the object in a file of JSON or YAML."""
    where = f"--lora_config {path}"
    try:
        text = read_document(Path(path), MAX_YAML_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: {getattr(error, 'strerror', None) or one_line(error)}") from error
    except ValueError as error:
        raise UserError(f"{where}: {one_line(error)}") from error
    try:
        content = load_json(text) if text.lstrip().startswith("{") else load_yaml(text)
    except ValueError as error:
        raise UserError(f"{where}: expected JSON or YAML, got: {one_line(error)}") from error
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{where}: expected fields of peft's LoraConfig, got {type(content).__name__}")
    return {str(name): value for name, value in content.items()}


def _is_neutral(name: str, value: Any, where: str) -> bool:
    """Return True for a field without effect here: of a file, or at the default of peft.

    Raises:
        UserError: The field is unknown, or its value cannot work here.
    """
    defaults = {item.name: None if item.default is MISSING else item.default for item in fields(LoraConfig)}
    known = {*defaults, _TYPE, *_OF_A_FILE}
    if name not in known:
        raise UserError(
            f"{where}: {name}: expected a field of peft's LoraConfig, got an unknown one.{suggestion(name, known)}"
        )
    if name == _TYPE and value not in (None, "LORA"):
        raise UserError(f"{where}: peft_type: expected LORA, got {value!r}")
    if name in _OF_A_FILE or name in (_TASK, _TYPE):
        return True
    if name in _FLAGS:
        return value is None
    if value is None or value == defaults[name] or value in ({}, []):
        return True
    if name not in _FURTHER:
        raise UserError(
            f"{where}: {name}: expected the default, since the trainer does not give peft what the field needs, got "
            f"{value!r}. Leave the field out"
        )
    return False


def _check_expressions(name: str, value: Any, where: str) -> None:
    """Check the regular expressions of a field: a text, or the keys of a pattern."""
    for expression in [value] if isinstance(value, str) else value if isinstance(value, Mapping) else ():
        try:
            re.compile(expression)
        except re.error as error:
            raise UserError(f"{where}: {name}: expected a regular expression, got {expression!r}: {error}") from error


def _as_setting(name: str, value: Any) -> Any:
    """Return the value of a field in the form of its flag.

    Example:
        >>> _as_setting("layers_to_transform", [0, 1, 2, 7]), _as_setting("init_lora_weights", True)
        ('0-2,7', 'true')
    """
    if name == "layers_to_transform":
        return _ranges([value] if isinstance(value, int) else value)
    if isinstance(value, list):
        return ",".join(value)
    if name == "init_lora_weights" and isinstance(value, bool):
        return str(value).lower()
    return value


def _ranges(layers: list[int]) -> str:
    parts: list[list[int]] = []
    for layer in sorted(set(layers)):
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ",".join(
        f"{part[0]}-{part[-1]}" if len(part) > _LARGEST_RANGE else ",".join(map(str, part)) for part in parts
    )


def _check_flag(settings: TrainSettings, name: str, value: Any, where: str) -> None:
    """Raise an error if a flag that is not at its default contradicts the file."""
    default = default_of(next(item for item in flags() if item.name == name))
    given = getattr(settings, name)
    if given in (default, value):
        return
    if name == "lora_layers" and settings.layers() == replace(settings, lora_layers=value).layers():
        return
    if name in ("lora_targets", "modules_to_save") and sorted(given.split(",")) == sorted(value.split(",")):
        return
    raise UserError(f"--{name}: expected {value}, as {where} has, got {given}. Leave one out")
