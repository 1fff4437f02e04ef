"""Geometry of heat maps: a row for each codebook, a column for each bucket of logged steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from markupsafe import Markup

from higgs_audio_trainer.logs.bounded_series import Bucket
from higgs_audio_trainer.report.chart import ChartLine, NumberTable, number_table
from higgs_audio_trainer.report.scale import Axis

_SHADES = 8
_MOST_LABELS = 5


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Means of series, each series as a row of shades.

    Attributes:
        title: Title of the heat map.
        lines: Series of the codebooks, which have the same buckets.
        values: Axis from the lightest to the darkest shade.
        width: Width of the drawing in SVG units.
        left: Width of the margin for the numbers of the codebooks, in SVG units.
        row_height: Height of a row in SVG units.
    """

    title: str
    lines: Sequence[ChartLine]
    values: Axis
    width: ClassVar[int] = 440
    left: ClassVar[int] = 46
    row_height: ClassVar[int] = 18

    @property
    def buckets(self) -> Sequence[Bucket]:
        """Return the buckets of the first row."""
        return self.lines[0].series.buckets

    @property
    def cells(self) -> list[tuple[str, Markup]]:
        """Return the CSS class of each shade, and the SVG path of all cells with this shade."""
        width = self._column_width
        paths: dict[str, list[str]] = defaultdict(list)
        for row, line in enumerate(self.lines):
            for column, bucket in enumerate(line.series.buckets):
                x = round(self.left + column * width, 1)
                paths[self._shade(bucket)].append(
                    f"M{x} {row * self.row_height}h{round(width + 0.1, 1)}v{self.row_height - 1}H{x}z"
                )
        return [(shade, Markup("".join(parts))) for shade, parts in sorted(paths.items())]  # noqa: S704 - numbers

    def _shade(self, bucket: Bucket) -> str:
        mean = bucket.mean
        return "none" if mean is None else f"h{min(_SHADES - 1, max(0, int(_SHADES * self.values.place(mean))))}"

    @property
    def _column_width(self) -> float:
        return (self.width - self.left) / max(1, len(self.buckets))

    @property
    def step_labels(self) -> list[tuple[float, int]]:
        """Return the horizontal coordinate and the first step of a few evenly spaced columns."""
        stride = -(-len(self.buckets) // _MOST_LABELS) or 1
        return [
            (round(self.left + (column + 0.5) * self._column_width, 1), self.buckets[column].first_step)
            for column in range(0, len(self.buckets), stride)
        ]

    @property
    def shades(self) -> list[tuple[str, str]]:
        """Return the lowest and the highest value of each shade, the lightest shade first."""
        low, span = self.values.low, self.values.high - self.values.low
        edges = [self.values.label(low + span * index / _SHADES) for index in range(_SHADES + 1)]
        return list(pairwise(edges))

    @property
    def numbers(self) -> NumberTable:
        """Return the table of the means."""
        return number_table(self.lines, lambda bucket: self.values.write(bucket.mean))
