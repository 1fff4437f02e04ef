"""Report of a comparison as annotations of GitHub Actions, followed by the text report.

GitHub shows 10 annotations for each step. The source of the escaping is `command.ts` of actions/toolkit. The runner
also obeys lines beginning with `::` after blanks, and `##[` anywhere in a line (source: `ActionCommand.cs` of
actions/runner).
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
        comparison: Result of `compare`.
        width: Width of the text below the annotations, in columns.
    """
    annotations = [annotation("error", *texts) for texts in islice(_findings(comparison), _MOST_ANNOTATIONS)]
    if faults := wording.faults(comparison):
        annotations.append(annotation("warning", "Invalid lines", " ".join(faults)))
    lines = text_report.render(comparison, width=width).splitlines()
    return "".join(f"{line}\n" for line in [*annotations, *map(plain, lines)])


def _findings(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yield titles and messages, most important first. Different settings may explain all other differences."""
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
    r"""Return an annotation with the level error, warning or notice.

    Example:
        >>> annotation("error", "First divergence: step 20", "loss: expected 2.5,\ngot 2.6")
        '::error title=First divergence%3A step 20::loss: expected 2.5,%0Agot 2.6'
    """
    return f"::{level} title={_escaped(title, _PROPERTY)}::{_escaped(message, _DATA)}"


def _escaped(text: str, replacements: tuple[tuple[str, str], ...]) -> str:
    for character, code in replacements:
        text = text.replace(character, code)
    return text


def plain(line: str) -> str:
    """Return a line without commands for the GitHub runner.

    Example:
        >>> plain("::error::x"), plain("##[group]x")
        (': :error::x', '# #[group]x')
    """
    indent = line[: len(line) - len(line.lstrip())]
    line = line.replace("##[", "# #[")
    return f"{indent}: {line.lstrip()[1:]}" if line.lstrip().startswith("::") else line
