"""A comparison as annotations of GitHub Actions, and the text as it is.

GitHub shows 10 annotations a step. How they are escaped is actions/toolkit's `command.ts`; what else the runner obeys
is a line that begins with `::`, blanks aside, and `##[` anywhere in a line: `ActionCommand.cs` of actions/runner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from higgs_audio_trainer.logs.diff.comparison import KINDS, Comparison
from higgs_audio_trainer.logs.diff.reports import text_report, wording

_MOST_ANNOTATIONS = 9
_MOST_DETAILS = 5
_SETTINGS = ("configuration", "versions")
_DATA = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_PROPERTY = (*_DATA, (":", "%3A"), (",", "%2C"))


def render(comparison: Comparison, *, width: int) -> str:
    """Render a comparison.

    Args:
        comparison: what was found.
        width: of the text below the annotations, in columns.
    """
    annotations = [annotation("error", *said) for said in islice(_said(comparison), _MOST_ANNOTATIONS)]
    if faults := wording.faults(comparison):
        annotations.append(annotation("warning", "Faulty lines", " ".join(faults)))
    lines = text_report.render(comparison, width=width).splitlines()
    return "".join(f"{line}\n" for line in [*annotations, *map(plain, lines)])


def _said(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yield titles and messages, the most telling first: what is set up differently explains all else."""
    for kind in _SETTINGS:
        details = [wording.setting(item) for item in comparison.settings if item.kind == kind]
        if details:
            yield _titled(comparison, kind), _listed(details)
    if comparison.first is not None:
        where, what = wording.divergence(comparison.first)
        yield f"First divergence: {where}", what
    for kind in comparison.counts:
        if kind in _SETTINGS:
            continue
        details = [wording.name(field.path) for field in comparison.worst if field.kind == kind]
        if kind == "drift":
            details = [wording.drift(field) for field in comparison.drifts]
        yield (
            _titled(comparison, kind),
            wording.missing_events(comparison, kind) or _listed(details) or wording.NO_DETAILS,
        )


def _titled(comparison: Comparison, kind: str) -> str:
    return f"{KINDS[kind]}: {comparison.counts[kind]:,}"


def _listed(details: Sequence[str]) -> str:
    return ", ".join(details[:_MOST_DETAILS])


def annotation(level: str, title: str, message: str) -> str:
    """Make an annotation of a level: error, warning or notice."""
    return f"::{level} title={_escaped(title, _PROPERTY)}::{_escaped(message, _DATA)}"


def _escaped(text: str, replacements: tuple[tuple[str, str], ...]) -> str:
    for character, code in replacements:
        text = text.replace(character, code)
    return text


def plain(line: str) -> str:
    """Take away what would make a line a command."""
    indent = line[: len(line) - len(line.lstrip())]
    line = line.replace("##[", "# #[")
    return f"{indent}: {line.lstrip()[1:]}" if line.lstrip().startswith("::") else line
