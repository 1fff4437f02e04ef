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
_MANY = 3


def render(
    logs: Sequence[GatheredLog], comparisons: Sequence[Comparison | str] = (), *, refresh_s: int | None = None
) -> str:
    """Return the page as HTML.

    Args:
        logs: One to eight logs.
        comparisons: Comparison of the first log with each other log, or the reason why the two cannot be compared.
        refresh_s: Seconds after which the page loads itself again. None for a page that does not change.
    """
    only = comparisons[0] if len(comparisons) == 1 else None  # several runs would mark several steps
    first = only.first if isinstance(only, Comparison) else None
    step = first.place.step if first is not None and isinstance(first.place.step, int) else None
    sheet = Sheet(logs, step)
    style = files("higgs_audio_trainer.report").joinpath("templates", "style.css").read_text("utf-8")
    template = environment().get_template("page.html.jinja")
    return template.render(
        beginning=Markup(BEGINNING),  # noqa: S704 - a constant
        title="Training report: " + _title([log.name[:_LONGEST_NAME] for log in logs]),
        style=Markup(style),  # noqa: S704 - a file of this package
        style_hash=b64encode(sha256(style.encode()).digest()).decode(),
        refresh_s=refresh_s,
        differences=[
            _difference(letter, comparison)
            for (letter, _), comparison in zip(sheet.lettered[1:], comparisons, strict=True)
        ],
        sheet=sheet,
    )


def _title(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < _MANY else f"{len(names)} runs"


def _difference(letter: str, comparison: Comparison | str) -> dict[str, str | None]:
    """Return the texts of a comparison of the first log with another log."""
    name = f"A and {letter.strip(': ')}"
    if isinstance(comparison, str):
        return {"name": name, "problem": comparison}
    first = comparison.first
    found = None if first is None else ": ".join(wording.divergence(first))
    return {"name": name, "problem": None, "result": wording.verdict(comparison), "first": found}
