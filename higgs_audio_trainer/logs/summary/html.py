"""Summary of a log as HTML, for notebooks. Every text is escaped, and nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.lines import ignore_problem
from higgs_audio_trainer.logs.summary.curve import CurveSummary
from higgs_audio_trainer.logs.summary.figures import Summary, summaries
from higgs_audio_trainer.logs.summary.table import MetricRow, accuracy_text, loss_text
from higgs_audio_trainer.logs.summary.text import closing, metric_rows, opening
from sinks.terminal.escape import printable
from sinks.terminal.words import count_of

_LEFT = Markup(' style="text-align: left; vertical-align: top"')  # notebooks align cells to the right
_HEADINGS = ("", "loss: first", "last", "best", "at step", "accuracy: first", "last", "best", "at step")


def summaries_html(paths: Sequence[str | Path], run: str | None) -> str:
    """Return the summaries of logs, or the problem of a log that cannot be read. Invalid lines are left out."""
    try:
        found = [*summaries(*paths, run=run, on_problem=ignore_problem, on_notice=_ignore_notice)]
    except UserError as error:
        return facts_html([("log", visible(str(error)))])
    return _joined(map(summary_html, found))


def _ignore_notice(_message: str) -> None:
    """Ignore a notice that `read` has printed already."""


def summary_html(summary: Summary) -> Markup:
    """Return a summary: facts, losses and accuracies with the codebooks folded away, and facts again."""
    trained, codebooks, evaluated = metric_rows(summary)
    return _joined(
        (
            facts_html(opening(summary)),
            _figures([*trained, *evaluated]),
            _folded(count_of(len(codebooks), "codebook"), _figures(codebooks)) if codebooks else Markup(),
            facts_html(closing(summary)),
        )
    )


def _figures(rows: Sequence[MetricRow]) -> Markup:
    return table_html(_HEADINGS, map(_cells, rows)) if rows else Markup()


def _folded(title: str, content: Markup) -> Markup:
    return Markup("<details><summary>{}</summary>{}</details>").format(title, content)


def facts_html(facts: Iterable[tuple[str, str]]) -> Markup:
    """Return labelled facts as a table.

    Args:
        facts: Labels and texts, without control characters.

    Example:
        >>> str(facts_html([("run", "<b>")])).replace(_LEFT, "")
        '<table><tr><th scope="row">run</th><td>&lt;b&gt;</td></tr></table>'
    """
    row = Markup('<tr><th scope="row"{0}>{1}</th><td{0}>{2}</td></tr>')
    return _table(row.format(_LEFT, label, text) for label, text in facts)


def visible(text: str) -> str:
    """Return a text whose control characters are visible escapes, also for modules that must not import `sinks`."""
    return printable(text)


def table_html(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return rows of texts as a table whose first column has the names of the rows."""
    above = _joined(Markup('<th scope="col">{}</th>').format(heading) for heading in headings)
    named = (
        Markup('<th scope="row"{}>{}</th>').format(_LEFT, name) + _joined(map(Markup("<td>{}</td>").format, cells))
        for name, *cells in rows
    )
    return _table(Markup("<tr>{}</tr>").format(row) for row in (above, *named))


def _table(rows: Iterable[Markup]) -> Markup:
    return Markup("<table>{}</table>").format(_joined(rows))


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup().join(parts)


def _cells(row: MetricRow) -> tuple[str, ...]:
    return (row.name, *_curve(row.loss, loss_text), *_curve(row.accuracy, accuracy_text))


def _curve(curve: CurveSummary | None, write: Callable[[float | None], str]) -> tuple[str, ...]:
    if curve is None:
        return ("", "", "", "")
    step = "" if curve.best_step is None else f"{curve.best_step:,}"
    return (write(curve.first), write(curve.last), write(curve.best), step)
