"""Geometry and texts of line charts. The template `charts.html.jinja` draws the charts as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from markupsafe import Markup

from higgs_audio_trainer.logs.bounded_series import Bucket, NumberSeries, Point
from higgs_audio_trainer.report.scale import Axis, number, step_range

_MOST_DOTS = 40
_LETTER_SIZE = 11  # SVG units


class ChartLine(NamedTuple):
    """Line of a chart.

    Attributes:
        name: Name in the legend and in the table.
        series: Values of the line.
        style: Number from 0 to 7, the colour and the dashes of the line.
        kind: `training`, or `evaluation` for a thin line with full dots.
        letter: Letter of the run at the end of the line. Empty for a page of one run.
    """

    name: str
    series: NumberSeries
    style: int = 0
    kind: str = "training"
    letter: str = ""

    @property
    def dots(self) -> list[Point]:
        """Return the points to draw as dots: all points if there are few points, else no points."""
        points = [point for segment in self.series.segments() for point in segment]
        return points if len(points) <= _MOST_DOTS else []


def _stacked(ends: Sequence[tuple[float, float, ChartLine]], size: int) -> list[tuple[float, float, ChartLine]]:
    """Return places of letters at the ends of lines, each moved by `size` until it is beside no other letter.

    Args:
        ends: Vertical and horizontal coordinate of each end, in the direction of `size`.
        size: Height of a letter; negative for letters that move upwards.
    """
    placed: list[tuple[float, float, ChartLine]] = []
    for wanted, x, line in ends:
        near = [y + size for other, y, _ in placed if abs(other - x) < abs(size)]
        y = (max if size > 0 else min)([wanted, *near])
        placed.append((x, round(y, 1), line))
    return placed


class LegendEntry(NamedTuple):
    """Entry of a legend: a sample of the line, and its name."""

    name: str
    style: int
    kind: str = "training"


class Chance(NamedTuple):
    """Loss of equal probabilities for all tokens of a vocabulary, ln V.

    Attributes:
        value: The loss, nats.
        vocabulary: Number of tokens, V.

    Example:
        >>> round(Chance.of(1026).value, 2)
        6.93
    """

    value: float
    vocabulary: int

    @classmethod
    def of(cls, vocabulary: int) -> Chance:
        """Return the chance level of a vocabulary."""
        return cls(math.log(vocabulary), vocabulary)


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
    right: int = 18
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
    """Return the table of lines. Buckets of the same steps share a row."""
    rows: dict[tuple[int, int], list[str]] = {}
    for index, line in enumerate(lines):
        for bucket in line.series.buckets:
            rows.setdefault((bucket.first_step, bucket.last_step), ["-"] * len(lines))[index] = cell(bucket)
    return NumberTable(
        [line.name for line in lines], [(step_range(*steps), cells) for steps, cells in sorted(rows.items())]
    )


def bucket_text(bucket: Bucket, values: Axis) -> str:
    """Return the lowest and the highest value of a bucket, and the number of values that are not finite."""
    broken = f"{bucket.broken:,} not finite" if bucket.broken else ""
    if bucket.low is None or bucket.high is None:
        return broken or "-"
    low, high = values.write(bucket.low[1]), values.write(bucket.high[1])
    text = low if low == high else f"{low} to {high}"
    return f"{text}; {broken}" if broken else text


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over steps in one drawing.

    Attributes:
        title: Title of the chart.
        plot: Axes and size of the drawing.
        lines: Lines of the chart.
        marks: Marks over the lines.
        chance: Chance level of the values. None for other values than losses, or if unknown.
        legend: Entries of the legend. Empty for a chart whose title says all.
    """

    title: str
    plot: Plot
    lines: Sequence[ChartLine]
    marks: Sequence[ChartMark] = ()
    chance: Chance | None = None
    legend: Sequence[LegendEntry] = ()

    @property
    def chance_y(self) -> float | None:
        """Return the vertical coordinate of the chance level. None if the axis does not reach the level."""
        if self.chance is None or not self.plot.values.low <= self.chance.value <= self.plot.values.high:
            return None
        return self.plot.y(self.chance.value)

    @property
    def last_value(self) -> str:
        """Return the last value of a chart with one line. Empty for several lines."""
        if len(self.lines) != 1:
            return ""
        last = self.lines[0].series.last
        return "none" if last is None else self.plot.values.write(last[1])

    @property
    def letters(self) -> list[tuple[float, float, ChartLine]]:
        """Return the place of each run's letter, beside the end of its line and without an overlap."""
        ends = [(line.series.last, line) for line in self.lines if line.letter and line.kind == "training"]
        found = sorted(
            ((self.plot.y(last[1]), self.plot.x(last[0]), line) for last, line in ends if last), key=itemgetter(0)
        )
        upper = [end for end in found if end[0] < self.plot.floor / 2]
        return [*_stacked(upper, _LETTER_SIZE), *_stacked(found[len(upper) :][::-1], -_LETTER_SIZE)]

    def describe(self, line: ChartLine) -> str:
        """Return the first and the last value of a line as a sentence, for screen readers."""
        write, first, last = self.plot.values.write, line.series.first, line.series.last
        if first is None or last is None:
            return f"{line.name}: no values."
        if first == last:
            return f"{line.name}: {write(last[1])} at step {last[0]:,}."
        return f"{line.name}: {write(first[1])} at step {first[0]:,}, {write(last[1])} at step {last[0]:,}."

    @property
    def description(self) -> str:
        """Return the title and a sentence about each line, for screen readers."""
        chance = "" if self.chance is None else f" Chance: {number(self.chance.value)}."
        return f"{self.title}. " + " ".join(map(self.describe, self.lines)) + chance

    @property
    def numbers(self) -> NumberTable:
        """Return the table of the lowest and the highest value of each bucket."""
        return number_table(self.lines, lambda bucket: bucket_text(bucket, self.plot.values))


@dataclass(frozen=True, slots=True)
class Panels:
    """Small charts side by side, with the same axes.

    Attributes:
        title: Title of all charts.
        charts: Charts, each with its own title.
        legend: Entries of the common legend.
    """

    title: str
    charts: Sequence[Chart]
    legend: Sequence[LegendEntry] = ()

    @property
    def numbers(self) -> NumberTable:
        """Return the table of the lowest and the highest value of each bucket, of all charts."""
        lines = [line for chart in self.charts for line in chart.lines]
        return number_table(lines, lambda bucket: bucket_text(bucket, self.charts[0].plot.values))
