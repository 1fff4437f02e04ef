"""HTML document without scripts and external resources. The document's policy allows only the style sheet inside."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from markupsafe import Markup

from higgs_audio_trainer.logs.diff.comparison import Comparison
from higgs_audio_trainer.logs.diff.reports import wording
from higgs_audio_trainer.report.gather import GatheredLog
from higgs_audio_trainer.report.markup import environment
from higgs_audio_trainer.report.sections import Sheet

#: First bytes of every report. The command overwrites only files that begin with these bytes.
BEGINNING = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="generator" content="higgs-audio-trainer report">'
)
_LONGEST_NAME = 200
_MOST_DIFFERENCES = 20


def render(logs: Sequence[GatheredLog], comparison: Comparison | str | None = None) -> str:
    """Return the page as HTML.

    Args:
        logs: One log, or two logs to show side by side.
        comparison: Comparison of two logs, or the reason why the logs cannot be compared.
    """
    first = comparison.first if isinstance(comparison, Comparison) else None
    step = first.place.step if first is not None and isinstance(first.place.step, int) else None
    style = files("higgs_audio_trainer.report").joinpath("templates", "style.css").read_text("utf-8")
    template = environment().get_template("page.html.jinja")
    return template.render(
        beginning=Markup(BEGINNING),  # noqa: S704 - a constant
        title="Training report: " + " and ".join(log.name[:_LONGEST_NAME] for log in logs),
        style=Markup(style),  # noqa: S704 - a file of this package
        style_hash=b64encode(sha256(style.encode()).digest()).decode(),
        difference=_difference(comparison),
        sheet=Sheet(logs, step),
    )


def _difference(comparison: Comparison | str | None) -> dict[str, object] | None:
    """Return the texts of a comparison."""
    if comparison is None or isinstance(comparison, str):
        return None if comparison is None else {"problem": comparison}
    return {
        "problem": None,
        "verdict": wording.verdict(comparison),
        "first": None if comparison.first is None else wording.divergence(comparison.first),
        "settings": [wording.setting(item) for item in comparison.settings[:_MOST_DIFFERENCES]],
        "left_out": max(0, len(comparison.settings) - _MOST_DIFFERENCES),
    }
