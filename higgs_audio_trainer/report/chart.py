"""Lines over steps as plain SVG. What a chart shows stands in a table, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from higgs_audio_trainer.report.markup import Markup, joined, tag
from higgs_audio_trainer.report.scale import Axis, number, share, span
from higgs_audio_trainer.report.thinning import Bucket, Thinned

_MOST_DOTS = 40
STYLES = 3  # of lines: colour and dashes together


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its name, what it shows, and the number of its style."""

    name: str
    series: Thinned
    style: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a step: drawn over the chart.

    Attributes:
        step: at which.
        kind: `error`, `warning` or `divergence`: its shape and colour.
        text: what it was, for who points at it.
    """

    step: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of a drawing, and the margins in which labels stand."""

    width: int
    height: int
    left: int = 46
    right: int = 12
    top: int = 22
    bottom: int = 34


WIDE = Size(440, 240)
SMALL = Size(210, 120, left=38, right=8, top=24, bottom=22)


@dataclass(frozen=True, slots=True)
class Plot:
    """Where things stand in a drawing."""

    size: Size
    steps: Axis
    values: Axis

    def x(self, step: float) -> float:
        """Return the place of a step."""
        inner = self.size.width - self.size.left - self.size.right
        return round(self.size.left + inner * self.steps.place(step), 1)

    def y(self, value: float) -> float:
        """Return the place of a value."""
        inner = self.size.height - self.size.top - self.size.bottom
        return round(self.size.height - self.size.bottom - inner * self.values.place(value), 1)

    @property
    def floor(self) -> int:
        """Return the place of the axis of steps."""
        return self.size.height - self.size.bottom

    def grid(self, *, ticks: int, step_ticks: int) -> Iterator[Markup]:
        """Draw the axes, with round numbers."""
        size = self.size
        for value in self.values.ticks(ticks):
            y = self.y(value)
            yield tag("path", d=f"M{size.left} {y}H{size.width - size.right}", class_="grid")
            yield tag("text", self.values.label(value), x=size.left - 5, y=y + 4, class_="end")
        yield from self.step_labels(step_ticks)

    def step_labels(self, most: int) -> Iterator[Markup]:
        """Write the steps below the drawing."""
        for step in self.steps.ticks(most):
            x = self.x(step)
            yield tag("path", d=f"M{x} {self.floor}v4", class_="tick")
            place = "end" if x > self.size.width - 24 else "middle"
            yield tag("text", number(round(step)), x=x, y=self.floor + 16, class_=place)

    def curve(self, line: Line) -> Iterator[Markup]:
        """Draw a line; a cross at the top where there was no number that can be drawn."""
        segments = line.series.segments()
        style = f"l{line.style % STYLES}"
        path = "".join("M" + "L".join(f"{self.x(step)} {self.y(value)}" for step, value in part) for part in segments)
        if path:
            yield tag("path", d=Markup(path), class_=f"line {style}")
        if sum(map(len, segments)) <= _MOST_DOTS:
            for step, value in (point for part in segments for point in part):
                yield tag("circle", cx=self.x(step), cy=self.y(value), r=2.5, class_=f"dot {style}")
        for bucket in (bucket for bucket in line.series.buckets if bucket.broken):
            x, y = self.x(bucket.first_step), self.size.top
            yield tag("path", d=f"M{x - 4} {y - 4}l8 8m0 -8l-8 8", class_="broken")

    def mark(self, mark: Mark) -> Markup:
        """Draw what happened at a step: a divergence as a line with its name, a diagnosis as a sign at the bottom."""
        x, top, floor = self.x(mark.step), self.size.top, self.floor
        if mark.kind != "divergence":
            return sign(mark.kind, x, floor - 7, mark.text)
        right = x > self.size.width * 0.6
        label = tag("text", "first difference", x=x - 4 if right else x + 4, y=top - 8, class_="end" if right else None)
        return tag(
            "g",
            tag("title", mark.text),
            tag("path", d=f"M{x} {top - 4}V{floor}"),
            label,
            class_="divergence",
        )


def sign(kind: str, x: float, y: float, meaning: str) -> Markup:
    """Draw the sign of a severity: each has a shape of its own."""
    shapes = {
        "error": "m0 -6l6 6l-6 6l-6 -6z",
        "warning": "m0 -6l6 11h-12z",
        "note": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    }
    return tag("path", tag("title", meaning), d=f"M{x} {round(y, 1)}{shapes[kind]}", class_=f"sign {kind}")


def line_chart(title: str, plot: Plot, lines: Sequence[Line], marks: Sequence[Mark] = ()) -> Markup:
    """Draw lines, with a legend if there are several.

    Args:
        title: what a screen reader says, with the ends of each line.
        plot: axes and size.
        lines: what is drawn.
        marks: what happened.
    """
    size, label = plot.size, plot.values.label if plot.values.is_share else number
    drawing = tag(
        "svg",
        *plot.grid(ticks=5, step_ticks=6),
        *(part for line in lines for part in plot.curve(line)),
        *map(plot.mark, marks),
        tag("text", "step", x=size.width - size.right, y=size.height - 4, class_="end name"),
        viewBox=f"0 0 {size.width} {size.height}",
        role="img",
        aria_label=f"{title}. " + " ".join(_in_words(line, label) for line in lines),
    )
    return joined([_legend(lines), drawing])


def panel(name: str, plot: Plot, series: Thinned, style: int) -> Markup:
    """Draw one of many small charts, with its name and last value above."""
    size, label = plot.size, share if plot.values.is_share else number
    last = series.last
    return tag(
        "svg",
        tag("text", name, x=size.left, y=14, class_="name"),
        tag("text", label(last[1]) if last else "none", x=size.width - size.right, y=14, class_="end name"),
        *plot.grid(ticks=4, step_ticks=3),
        *plot.curve(Line(name, series, style)),
        viewBox=f"0 0 {size.width} {size.height}",
        role="img",
        aria_label=_in_words(Line(name, series), label),
    )


def _in_words(line: Line, label: Callable[[float], str]) -> str:
    first, last = line.series.first, line.series.last
    if first is None or last is None:
        return f"{line.name}: nothing to draw."
    return f"{line.name}: {label(first[1])} at step {first[0]:,}, {label(last[1])} at step {last[0]:,}."


def _legend(lines: Sequence[Line]) -> Markup:
    swatches = (
        tag(
            "li",
            tag(
                "svg",
                tag("path", d="M0 6h28", class_=f"line l{line.style % STYLES}"),
                viewBox="0 0 28 12",
                aria_hidden="true",
            ),
            line.name,
        )
        for line in lines
    )
    return tag("ul", *swatches, class_="legend")


def table(caption: str, lines: Sequence[Line], cell: Callable[[Bucket], str]) -> Markup:
    """Write the numbers behind a chart, to be unfolded."""
    heads = tag("tr", tag("th", "steps", scope="col"), *(tag("th", line.name, scope="col") for line in lines))
    rows = (
        tag(
            "tr",
            tag("th", span(row[0].first_step, row[0].last_step), scope="row"),
            *(tag("td", cell(bucket)) for bucket in row),
        )
        for row in zip(*(line.series.buckets for line in lines), strict=True)
    )
    return folded(caption, tag("table", tag("thead", heads), tag("tbody", *rows)))


def folded(caption: str, *children: Markup) -> Markup:
    """Put something away until it is asked for; what is too wide scrolls by itself."""
    return tag(
        "details",
        tag("summary", caption),
        tag("div", *children, class_="scroll", tabindex="0", role="region", aria_label=caption),
    )


def range_of(label: Callable[[float], str]) -> Callable[[Bucket], str]:
    """Write the lowest and highest of a bucket, and how many of its values were no number."""

    def written(bucket: Bucket) -> str:
        broken = f"{bucket.broken:,} not finite" if bucket.broken else ""
        if bucket.low is None or bucket.high is None:
            return broken or "-"
        low, high = label(bucket.low[1]), label(bucket.high[1])
        values = low if low == high else f"{low} to {high}"
        return f"{values}; {broken}" if broken else values

    return written
