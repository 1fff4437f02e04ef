"""Geometry and texts of line charts. The template `charts.html.jinja` draws the charts as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from higgs_audio_trainer.logs.bounded_series import Bucket, NumberSeries, Point
from higgs_audio_trainer.report.scale import Axis, step_range

_MOST_DOTS = 40


class ChartLine(NamedTuple):
    """Line of a chart.

    Attributes:
        name: Name in the legend and in the table.
        series: Values of the line.
        style: 0, 1 or 2, the colour and the dashes of the line.
    """

    name: str
    series: NumberSeries
    style: int = 0

    @property
    def dots(self) -> list[Point]:
        """Return the points to draw as dots: all points if there are few points, else no points."""
        points = [point for segment in self.series.segments() for point in segment]
        return points if len(points) <= _MOST_DOTS else []


class ChartMark(NamedTuple):
    """Mark at a step of a chart.

    Attributes:
        step: Step of the mark.
        kind: `error`, `warning` or `divergence`, which have different shapes and colours.
        text: Tooltip of the mark.
    """

    step: int
    kind: str
    text: str


class DrawingSize(NamedTuple):
    """Size of a drawing and of the margins for labels, in SVG units."""

    width: int
    height: int
    left: int = 46
    right: int = 12
    top: int = 22
    bottom: int = 34


WIDE = DrawingSize(440, 240)
SMALL = DrawingSize(210, 120, left=38, right=8, top=24, bottom=22)


@dataclass(frozen=True, slots=True)
class Plot:
    """Coordinates of a drawing.

    Attributes:
        size: Size of the drawing.
        steps: Horizontal axis.
        values: Vertical axis.
    """

    size: DrawingSize
    steps: Axis
    values: Axis

    def x(self, step: float) -> float:
        """Return the horizontal coordinate of a step.

        Example:
            >>> plot = Plot(DrawingSize(100, 50, left=0, right=0, top=0, bottom=0), Axis(0, 10), Axis(0, 1))
            >>> plot.x(5), plot.y(1), plot.y(0)
            (50.0, 0.0, 50.0)
        """
        inner = self.size.width - self.size.left - self.size.right
        return round(self.size.left + inner * self.steps.place(step), 1)

    def y(self, value: float) -> float:
        """Return the vertical coordinate of a value."""
        inner = self.size.height - self.size.top - self.size.bottom
        return round(self.size.height - self.size.bottom - inner * self.values.place(value), 1)

    @property
    def floor(self) -> int:
        """Return the vertical coordinate of the horizontal axis."""
        return self.size.height - self.size.bottom

    def path(self, segments: Iterable[Sequence[Point]]) -> Markup:
        """Return the SVG path through the points of each segment."""
        parts = ("L".join(f"{self.x(step)} {self.y(value)}" for step, value in segment) for segment in segments)
        return Markup("".join(f"M{part}" for part in parts))  # noqa: S704 - made of numbers


class NumberTable(NamedTuple):
    """Table of the numbers behind a drawing.

    Attributes:
        names: Names of the lines, the headings of the columns.
        rows: Steps of each bucket, and the cell of each line.
    """

    names: list[str]
    rows: list[tuple[str, list[str]]]


def number_table(lines: Sequence[ChartLine], cell: Callable[[Bucket], str]) -> NumberTable:
    """Return the table of lines whose series have the same buckets."""
    rows = zip(*(line.series.buckets for line in lines), strict=True)
    return NumberTable(
        [line.name for line in lines],
        [(step_range(row[0].first_step, row[0].last_step), [cell(bucket) for bucket in row]) for row in rows],
    )


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over steps: one drawing with all lines, or a small drawing of each line.

    Attributes:
        title: Title of the chart.
        plot: Axes and size of a drawing.
        lines: Lines of the chart.
        marks: Marks over the lines.
    """

    title: str
    plot: Plot
    lines: Sequence[ChartLine]
    marks: Sequence[ChartMark] = ()

    def describe(self, line: ChartLine) -> str:
        """Return the first and the last value of a line as a sentence, for screen readers."""
        write, first, last = self.plot.values.write, line.series.first, line.series.last
        if first is None or last is None:
            return f"{line.name}: no values."
        return f"{line.name}: {write(first[1])} at step {first[0]:,}, {write(last[1])} at step {last[0]:,}."

    @property
    def description(self) -> str:
        """Return the title and a sentence about each line, for screen readers."""
        return f"{self.title}. " + " ".join(map(self.describe, self.lines))

    @property
    def numbers(self) -> NumberTable:
        """Return the table of the lowest and the highest value of each bucket."""
        return number_table(self.lines, self._range)

    def _range(self, bucket: Bucket) -> str:
        broken = f"{bucket.broken:,} not finite" if bucket.broken else ""
        if bucket.low is None or bucket.high is None:
            return broken or "-"
        low, high = self.plot.values.write(bucket.low[1]), self.plot.values.write(bucket.high[1])
        values = low if low == high else f"{low} to {high}"
        return f"{values}; {broken}" if broken else values
