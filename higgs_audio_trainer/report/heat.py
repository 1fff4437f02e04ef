"""The heat strip: a row a codebook, a column a logged step, or a few neighbouring ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from higgs_audio_trainer.report.chart import Line
from higgs_audio_trainer.report.markup import Markup, joined, tag
from higgs_audio_trainer.report.scale import Axis, span
from higgs_audio_trainer.report.thinning import Bucket

SHADES = 8
_WIDTH, _LEFT, _ROW, _BOTTOM, _MOST_LABELS = 440, 46, 18, 22, 5


def strip(title: str, lines: Sequence[Line], values: Axis) -> Markup:
    """Draw the means of series, each as a row of shades, with what the shades mean below.

    Args:
        title: for a screen reader.
        lines: one a codebook; all have the same buckets.
        values: from the lightest shade to the darkest.
    """
    buckets = lines[0].series.buckets
    width = (_WIDTH - _LEFT) / max(1, len(buckets))
    cells: dict[str, list[str]] = defaultdict(list)
    for row, line in enumerate(lines):
        for column, bucket in enumerate(line.series.buckets):
            x = round(_LEFT + column * width, 1)
            cells[_shade(bucket, values)].append(f"M{x} {row * _ROW}h{round(width + 0.1, 1)}v{_ROW - 1}H{x}z")
    height = len(lines) * _ROW
    names = (tag("text", str(row), x=_LEFT - 6, y=row * _ROW + 13, class_="end") for row in range(len(lines)))
    drawing = tag(
        "svg",
        *(tag("path", d=Markup("".join(paths)), class_=shade) for shade, paths in sorted(cells.items())),
        *names,
        *_steps(buckets, width, height),
        viewBox=f"0 0 {_WIDTH} {height + _BOTTOM}",
        role="img",
        aria_label=f"{title}; the table below has its numbers.",
    )
    return joined([drawing, _scale(values)])


def _shade(bucket: Bucket, values: Axis) -> str:
    mean = bucket.mean
    if mean is None:
        return "none"
    return f"h{min(SHADES - 1, max(0, int(SHADES * values.place(mean))))}"


def _steps(buckets: Sequence[Bucket], width: float, height: int) -> list[Markup]:
    stride = -(-len(buckets) // _MOST_LABELS)
    return [
        tag(
            "text",
            f"{bucket.first_step:,}",
            x=round(_LEFT + (column * stride + 0.5) * width, 1),
            y=height + 15,
            class_="middle",
        )
        for column, bucket in enumerate(buckets[::stride])
    ]


def _scale(values: Axis) -> Markup:
    edges = [values.low + (values.high - values.low) * index / SHADES for index in range(SHADES + 1)]
    shades = (
        tag(
            "li",
            tag("svg", tag("rect", width=14, height=14, class_=f"h{index}"), viewBox="0 0 14 14", aria_hidden="true"),
            f"{values.label(edges[index])} to {values.label(edges[index + 1])}",
        )
        for index in range(SHADES)
    )
    return tag("ul", *shades, class_="legend shades")


def caption_of(buckets: Sequence[Bucket]) -> str:
    """Say what a column is."""
    if not buckets or buckets[0].first_step == buckets[0].last_step:
        return "Each column is a logged step."
    steps = span(buckets[0].first_step, buckets[0].last_step)
    return f"Each column is the mean of neighbouring logged steps; the first one, of steps {steps}."
