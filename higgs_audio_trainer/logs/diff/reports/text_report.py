"""Report of a comparison for a terminal, about one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from higgs_audio_trainer.logs.diff.comparison import Comparison
from higgs_audio_trainer.logs.diff.reports import wording

_MOST_SETTINGS = 10
_MOST_FIELDS = 10
_MOST_DRIFTS = 5
_NARROWEST = 40
_FEWEST_COLUMNS = 2
_LONGEST_NAME = 40  # characters of a field's name in the table; the longest known name has 39


def render(comparison: Comparison, *, width: int) -> str:
    """Render a comparison.

    Args:
        comparison: Result of `compare`.
        width: Width in columns; longer lines are wrapped.
    """
    paragraphs = [paragraph for paragraph in _paragraphs(comparison, width) if paragraph]
    return "\n\n".join("\n".join(_wrapped(line, width) for line in paragraph) for paragraph in paragraphs) + "\n"


def _wrapped(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    if not line:
        return ""
    return textwrap.fill(
        line, max(width, _NARROWEST), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _paragraphs(comparison: Comparison, width: int) -> Iterator[list[str]]:
    yield [f"A: {wording.side(comparison.expected)}", f"B: {wording.side(comparison.got)}"]
    yield _settings(comparison)
    yield _first(comparison)
    yield _counts(comparison)
    yield _worst(comparison, width)
    yield _drifts(comparison)
    yield [*wording.faults(comparison), wording.verdict(comparison)]


def _settings(comparison: Comparison) -> list[str]:
    lines = [f"  {wording.setting(item)}" for item in comparison.settings]
    total = sum(comparison.counts.get(kind, 0) for kind in ("configuration", "versions"))
    title = ["The runs have different settings:"] if lines else []
    note = wording.uncounted(comparison)
    return [*title, *_first_of(lines, _MOST_SETTINGS, total), *([note] if note else [])]


def _first(comparison: Comparison) -> list[str]:
    if comparison.first is None:
        return []
    where, what = wording.divergence(comparison.first)
    remark = wording.remark(comparison.first)
    return [f"First divergence: {where}", f"  {what}", *([f"  {remark}"] if remark else [])]


def _counts(comparison: Comparison) -> list[str]:
    details = [wording.missing_events(comparison, kind) for kind in comparison.counts]
    counts = [(*row, detail) for row, detail in zip(wording.kind_counts(comparison), details, strict=True)]
    return ["Differences by kind:", *_columns(counts, right=(1,))] if counts else []


def _worst(comparison: Comparison, width: int) -> list[str]:
    """Return the table of fields, with as many columns as fit the width."""
    if not comparison.worst:
        return []
    fields = comparison.worst[:_MOST_FIELDS]
    cells = ((wording.short_name(field.path, _LONGEST_NAME), *wording.field_cells(field)[1:]) for field in fields)
    rows = [wording.FIELD_TITLES, *cells]
    kept = [index for index, column in enumerate(zip(*rows[1:], strict=True)) if any(column)]
    while True:
        lines = _columns([[row[index] for index in kept] for row in rows], right=range(1, len(kept)))
        if len(kept) <= _FEWEST_COLUMNS or max(map(len, lines)) <= width:
            break
        kept.pop()
    return _first_of(lines, len(lines), len(comparison.worst) + 1)


def _drifts(comparison: Comparison) -> list[str]:
    lines = [f"Drift: {wording.drift(field)}" for field in comparison.drifts]
    return _first_of(lines, _MOST_DRIFTS, len(lines))


def _first_of(lines: Sequence[str], most: int, total: int) -> list[str]:
    shown = list(lines[:most])
    return [*shown, f"  and {total - len(shown):,} more"] if total > len(shown) else shown


def _columns(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    """Align columns; columns in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines
