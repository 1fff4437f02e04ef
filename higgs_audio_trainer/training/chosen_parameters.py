"""The parameters that a full fine-tuning trains."""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase

from torch import nn

from higgs_audio_trainer.errors import UserError, suggestion


def choose_parameters(model: nn.Module, *, train: str | None, freeze: str | None) -> None:
    """Freeze the parameters of a model that are not trained.

    A pattern matches a whole name, or a part of it between dots: `layers.*.mlp.*`, `audio_head`, `embed_tokens`. A
    weight that two modules share has the names of both.

    Args:
        model: Model.
        train: Patterns of the parameters to train, separated by commas. None for all.
        freeze: Patterns of parameters among them that are not trained. None for none.

    Raises:
        UserError: A pattern matches no parameter, or no parameter is left.
    """
    names = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    known = [name for shared in names.values() for name in shared]
    wanted = _patterns(train, "--train", known)
    frozen = _patterns(freeze, "--freeze", known)
    for parameter, shared in names.items():
        is_wanted = train is None or any(_matches(name, wanted) for name in shared)
        parameter.requires_grad_(is_wanted and not any(_matches(name, frozen) for name in shared))
    if not any(parameter.requires_grad for parameter in names):
        flag = "--train" if freeze is None else "--freeze"
        raise UserError(f"{flag}: expected some parameters to train, got none left. Freeze less")


def _patterns(text: str | None, flag: str, names: list[str]) -> list[str]:
    patterns = [pattern for part in (text or "").split(",") if (pattern := part.strip())]
    if text is not None and not patterns:
        raise UserError(f"{flag}: expected patterns of parameter names like layers.*.mlp.*, got {text!r}")
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in names):
            parts = dict.fromkeys(part for name in names for part in name.split(".") if not part.isdecimal())
            hint = suggestion(pattern.replace(".*", "").replace("*.", "").rpartition(".")[2], parts)
            raise UserError(
                f"{flag}: expected patterns of parameter names, such as {names[0]} and {names[-1]}, got {pattern!r}, "
                f"which matches none.{hint}"
            )
    return patterns


def _matches(name: str, patterns: list[str]) -> bool:
    return any(
        fnmatchcase(name, form)
        for pattern in patterns
        for form in (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
    )
