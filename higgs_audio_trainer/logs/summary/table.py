"""Table of losses and accuracies with small bars, fitted to the width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from higgs_audio_trainer.logs.summary.bars import Glyphs
from higgs_audio_trainer.logs.summary.curve import CurveSummary

_NUMBERS = ("first", "last", "best")
_LEAST_BAR, _MOST_BAR = 4, 12
_LEAST_TREND, _MOST_TREND = 5, 20
_GRID_GAP = "   "


class MetricRow(NamedTuple):
    """A row of the table: name, loss and accuracy over the steps. A missing metric is None."""

    name: str
    loss: CurveSummary | None
    accuracy: CurveSummary | None


def loss_text(value: float | None, decimals: int = 3) -> str:
    """Return a loss as text.

    Example:
        >>> loss_text(2.34567), loss_text(12345.6), loss_text(None)
        ('2.346', '1.2e+04', 'n/a')
    """
    if value is None:
        return "n/a"
    return f"{value:.{decimals}f}" if abs(value) < 1_000 else f"{value:.2g}"  # noqa: PLR2004 - a larger loss does not fit


def accuracy_text(value: float | None, decimals: int = 1) -> str:
    """Return an accuracy in percent.

    Example:
        >>> accuracy_text(0.7222), accuracy_text(None)
        ('72.2%', 'n/a')
    """
    if value is None:
        return "n/a"
    return f"{value:.{decimals}%}" if abs(value) <= 1 else f"{value:.2g}"


def table(rows: Sequence[MetricRow], width: int, glyphs: Glyphs) -> list[str]:
    """Return the lines of the table, with two lines of headings.

    Bars, steps and trends are added if the width allows. For a small width the column of first values is dropped, then
    the column of best values.
    """
    names = [row.name for row in rows]
    losses = _ColumnGroup("loss", [row.loss for row in rows], loss_text, glyphs)
    accuracies = _ColumnGroup("accuracy", [row.accuracy for row in rows], accuracy_text, glyphs)
    room = width - max(map(len, names)) - 2 * len("  ") - losses.width - accuracies.width
    for dropped in ("first", "best"):
        if room < 0:
            room += losses.drop(dropped) + accuracies.drop(dropped)
    _fill(losses, accuracies, room)
    head = max(map(len, names))
    lines = [f"{'':{head}}  {losses.title:<{losses.width}}  {accuracies.title}"]
    lines.append(f"{'':{head}}  {losses.heading()}  {accuracies.heading()}")
    lines += [f"{name:<{head}}  {losses.row(index)}  {accuracies.row(index)}" for index, name in enumerate(names)]
    return [line.rstrip() for line in lines]


def _fill(losses: _ColumnGroup, accuracies: _ColumnGroup, room: int) -> None:
    """Distribute the remaining width over the optional columns, in the order of importance."""
    wishes = (
        (accuracies, "bar", _LEAST_BAR),
        (losses, "trend", _LEAST_TREND),
        (losses, "at", losses.at_width),
        (accuracies, "at", accuracies.at_width),
        (accuracies, "trend", _LEAST_TREND),
    )
    for group, name, size in wishes:
        if room > size:
            group.extras[name] = size
            room -= 1 + size
    growing = ((losses, "trend", _MOST_TREND), (accuracies, "trend", _MOST_TREND), (accuracies, "bar", _MOST_BAR))
    while room > 0:
        chosen = [(group, name) for group, name, most in growing if 0 < group.extras.get(name, 0) < most]
        if not chosen:
            return
        for group, name in chosen[:room]:
            group.extras[name] += 1
            room -= 1


class _ColumnGroup:
    """Columns of a metric.

    Attributes:
        extras: Widths of the optional columns: `at`, the step of the best value; `trend`; `bar`.
    """

    def __init__(
        self, title: str, series: Sequence[CurveSummary | None], write: Callable[[float | None], str], glyphs: Glyphs
    ) -> None:
        self.title = title
        self.extras: dict[str, int] = {}
        self._series = series
        self._glyphs = glyphs
        self._columns = {
            name: ["" if item is None else write(getattr(item, name)) for item in series] for name in _NUMBERS
        }
        self._at = ["" if item is None or item.best_step is None else f"{item.best_step}" for item in series]

    @property
    def at_width(self) -> int:
        return max(map(len, ("at", *self._at)))

    @property
    def width(self) -> int:
        widths = [*map(self._width_of, self._columns), *self.extras.values()]
        return sum(widths) + len(widths) - 1

    def drop(self, name: str) -> int:
        """Remove a column; return the freed width."""
        before = self.width
        del self._columns[name]
        return before - self.width

    def heading(self) -> str:
        return self._line({name: name for name in self._columns} | {"at": "at", "trend": "trend", "bar": "last"})

    def row(self, index: int) -> str:
        series = self._series[index]
        cells = {name: column[index] for name, column in self._columns.items()} | {"at": self._at[index]}
        if series is not None:
            cells["trend"] = self._glyphs.trend(series.trend, self.extras.get("trend", 0))
            cells["bar"] = self._glyphs.bar(series.last, self.extras.get("bar", 0))
        return self._line(cells)

    def _line(self, cells: Mapping[str, str]) -> str:
        parts = [cells[name].rjust(self._width_of(name)) for name in self._columns]
        if "at" in self.extras:
            parts.append(cells["at"].rjust(self.extras["at"]))
        parts += [cells.get(name, "").ljust(self.extras[name]) for name in ("trend", "bar") if name in self.extras]
        return " ".join(parts)

    def _width_of(self, name: str) -> int:
        return max(map(len, (name, *self._columns[name])))


def grid(rows: Sequence[MetricRow], width: int, most_lines: int, glyphs: Glyphs) -> list[str]:
    """Return many rows side by side in a short form: as many rows as the lines allow, and the number of hidden rows."""
    cells = list(_cells(rows, glyphs, _LEAST_BAR - 1))
    beside = max(1, (width + len(_GRID_GAP)) // (len(cells[0]) + len(_GRID_GAP)))
    lines = min(most_lines, -(-len(rows) // beside))
    heading, *shown = cells[: 1 + lines * beside]
    beside = -(-len(shown) // lines)
    laid = [_GRID_GAP.join([heading] * beside)]
    laid += [_GRID_GAP.join(shown[index::lines]) for index in range(lines)]
    rest = len(rows) - len(shown)
    return [line.rstrip() for line in laid] + ([f"... and {rest:,} more"] if rest else [])


def _cells(rows: Sequence[MetricRow], glyphs: Glyphs, bar: int) -> Iterator[str]:
    """Yield a heading and the cell of each row, all with the same width."""
    figures = [
        [row.name]
        + ["" if row.loss is None else loss_text(getattr(row.loss, name), 2) for name in _NUMBERS]
        + ["" if row.accuracy is None else accuracy_text(getattr(row.accuracy, name), 0) for name in _NUMBERS]
        for row in rows
    ]
    headings = ["", *_NUMBERS, *_NUMBERS]
    widths = [max(map(len, column)) for column in zip(headings, *figures, strict=True)]
    bars = [" " * bar, *(glyphs.bar(row.accuracy.last if row.accuracy else None, bar) for row in rows)]
    for texts, drawn in zip([headings, *figures], bars, strict=True):
        yield " ".join([*(text.rjust(size) for text, size in zip(texts, widths, strict=True)), drawn])
