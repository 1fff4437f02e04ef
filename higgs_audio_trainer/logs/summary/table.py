"""Losses and accuracies as a table with small bars, as wide as there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from higgs_audio_trainer.logs.summary.bars import Glyphs
from higgs_audio_trainer.logs.summary.curve import CurveSummary

_NUMBERS = ("first", "last", "best")
_LEAST_BAR, _MOST_BAR = 4, 12
_LEAST_TREND, _MOST_TREND = 5, 20
_GRID_GAP = "   "


class Row(NamedTuple):
    """One row: what it is of, its loss and its accuracy over the steps; None where there is none."""

    name: str
    loss: CurveSummary | None
    accuracy: CurveSummary | None


def loss_text(value: float | None, decimals: int = 3) -> str:
    """Write a loss."""
    if value is None:
        return "n/a"
    return f"{value:.{decimals}f}" if abs(value) < 1_000 else f"{value:.2g}"  # noqa: PLR2004 - a loss has two digits


def share_text(value: float | None, decimals: int = 1) -> str:
    """Write an accuracy in percent."""
    if value is None:
        return "n/a"
    return f"{value:.{decimals}%}" if abs(value) <= 1 else f"{value:.2g}"


def table(rows: Sequence[Row], width: int, glyphs: Glyphs) -> list[str]:
    """Lay out rows with two lines of headings.

    Bars, steps and trends are added while there is room for them; where there is little, the first figures are left
    out, and then the best.
    """
    names = [row.name for row in rows]
    losses = _Group("loss", [row.loss for row in rows], loss_text, glyphs)
    shares = _Group("right", [row.accuracy for row in rows], share_text, glyphs)
    room = width - max(map(len, names)) - 2 * len("  ") - losses.width - shares.width
    for dropped in ("first", "best"):
        if room < 0:
            room += losses.drop(dropped) + shares.drop(dropped)
    _fill(losses, shares, room)
    head = max(map(len, names))
    lines = [f"{'':{head}}  {losses.title:<{losses.width}}  {shares.title}"]
    lines.append(f"{'':{head}}  {losses.heading()}  {shares.heading()}")
    lines += [f"{name:<{head}}  {losses.row(index)}  {shares.row(index)}" for index, name in enumerate(names)]
    return [line.rstrip() for line in lines]


def _fill(losses: _Group, shares: _Group, room: int) -> None:
    """Give room to what is worth it, in this order; what is left goes to bars and trends."""
    wishes = (
        (shares, "bar", _LEAST_BAR),
        (losses, "trend", _LEAST_TREND),
        (losses, "at", losses.at_width),
        (shares, "at", shares.at_width),
        (shares, "trend", _LEAST_TREND),
    )
    for group, name, size in wishes:
        if room > size:
            group.extras[name] = size
            room -= 1 + size
    growing = ((losses, "trend", _MOST_TREND), (shares, "trend", _MOST_TREND), (shares, "bar", _MOST_BAR))
    while room > 0:
        chosen = [(group, name) for group, name, most in growing if 0 < group.extras.get(name, 0) < most]
        if not chosen:
            return
        for group, name in chosen[:room]:
            group.extras[name] += 1
            room -= 1


class _Group:
    """The columns of one kind of figure.

    Attributes:
        extras: widths of what there is room for beside the figures: `at`, the step of the best; `trend`; `bar`.
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
        """Leave a column out; return what it took."""
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


def grid(rows: Sequence[Row], width: int, most_lines: int, glyphs: Glyphs) -> list[str]:
    """Lay out many rows side by side, shorter: as many as fit in a number of lines, and how many more there are."""
    cells = list(_cells(rows, glyphs, _LEAST_BAR - 1))
    beside = max(1, (width + len(_GRID_GAP)) // (len(cells[0]) + len(_GRID_GAP)))
    lines = min(most_lines, -(-len(rows) // beside))
    heading, *shown = cells[: 1 + lines * beside]
    beside = -(-len(shown) // lines)
    laid = [_GRID_GAP.join([heading] * beside)]
    laid += [_GRID_GAP.join(shown[index::lines]) for index in range(lines)]
    rest = len(rows) - len(shown)
    return [line.rstrip() for line in laid] + ([f"... and {rest:,} more"] if rest else [])


def _cells(rows: Sequence[Row], glyphs: Glyphs, bar: int) -> Iterator[str]:
    """Yield a heading and the cell of each row, all equally wide."""
    figures = [
        [row.name]
        + ["" if row.loss is None else loss_text(getattr(row.loss, name), 2) for name in _NUMBERS]
        + ["" if row.accuracy is None else share_text(getattr(row.accuracy, name), 0) for name in _NUMBERS]
        for row in rows
    ]
    headings = ["", *_NUMBERS, *_NUMBERS]
    widths = [max(map(len, column)) for column in zip(headings, *figures, strict=True)]
    bars = [" " * bar, *(glyphs.bar(row.accuracy.last if row.accuracy else None, bar) for row in rows)]
    for texts, drawn in zip([headings, *figures], bars, strict=True):
        yield " ".join([*(text.rjust(size) for text, size in zip(texts, widths, strict=True)), drawn])
