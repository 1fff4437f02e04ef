"""Reports of a comparison as text, a file for each format."""

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
    """Render a comparison.

    Args:
        comparison: Result of `compare`.
        format: Format, from `FORMATS`.
        width: Width of text in columns. Other formats ignore the width.

    Returns:
        The report with a newline at the end. Strings from the logs are escaped for the format.

    Raises:
        UserError: The format is unknown.

    Example:
        >>> from higgs_audio_trainer.logs.diff.compare import diff
        >>> step = {"event": "train_step", "v": 1, "rank": 0, "step": 10, "loss": 2.5}
        >>> print(render(diff([step], [step])), end="")
        A: records (1 event, step 10)
        B: records (1 event, step 10)
        <BLANKLINE>
        Same: 1 event agrees (floats within tolerance).
    """
    if format not in FORMATS:
        raise UserError(f"--format: expected one of {', '.join(FORMATS)}, got {format!r}.{suggestion(format, FORMATS)}")
    renderer: Callable[..., str] = import_module(f"{__name__}.{format}_report").render
    settings: Mapping[str, int] = {"width": width} if format in _WITH_WIDTH else {}
    return partial(renderer, **settings)(comparison)
