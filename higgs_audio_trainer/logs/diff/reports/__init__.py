"""A comparison in words: one file a format. Pure: data in, text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.logs.diff.comparison import Comparison

FORMATS = ("text", "json", "markdown", "junit", "github")
WIDTH = 100  # columns
_WITH_WIDTH = ("text", "github")


def render(comparison: Comparison, format: str = "text", *, width: int = WIDTH) -> str:  # noqa: A002 - the flag's name
    """Put a comparison into words.

    Args:
        comparison: what `compare` found.
        format: one of `FORMATS`.
        width: of the text, in columns; other formats are as wide as they are.

    Returns:
        the report, with a newline at its end. Texts from the logs are escaped as its readers need it.

    Raises:
        UserError: there is no such format.
    """
    if format not in FORMATS:
        raise UserError(f"--format: expected one of {', '.join(FORMATS)}, got {format!r}.{suggestion(format, FORMATS)}")
    renderer: Callable[..., str] = import_module(f"{__name__}.{format}_report").render
    settings: Mapping[str, int] = {"width": width} if format in _WITH_WIDTH else {}
    return partial(renderer, **settings)(comparison)
