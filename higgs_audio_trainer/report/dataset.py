"""The audit of the data on the page: facts, a histogram of lengths, and findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from markupsafe import Markup

from higgs_audio_trainer.events import DatasetAudit, DatasetFinding, FoundSample, SplitStatistics
from higgs_audio_trainer.report.chart import WIDE, NumberTable, Plot
from higgs_audio_trainer.report.scale import Axis, number

_MOST_SPLITS = 2
_MOST_BINS = 100
_MOST_FINDINGS = 50
_MOST_SAMPLES = 10
_MOST_NAMES = 12  # of scripts and sampling rates
_GAP = 0.5  # between bars, in SVG units


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """Histogram of the lengths of a split's samples.

    Attributes:
        title: Title of the histogram.
        bin_s: Width of a bin, seconds.
        counts: Number of samples of each bin.
    """

    title: str
    bin_s: float
    counts: Sequence[int]

    @property
    def plot(self) -> Plot:
        """Return the coordinates of the drawing: seconds to the right, samples upwards."""
        return Plot(WIDE, Axis(0.0, self.bin_s * len(self.counts)), Axis(0, max(self.counts)))

    @property
    def bars(self) -> Markup:
        """Return the SVG path of the bars."""
        plot = self.plot
        edges = [plot.x(self.bin_s * index) for index in range(len(self.counts) + 1)]
        parts = (
            f"M{edges[index] + _GAP} {plot.floor}V{plot.y(count)}H{edges[index + 1] - _GAP}V{plot.floor}z"
            for index, count in enumerate(self.counts)
            if count
        )
        return Markup("".join(parts))  # noqa: S704 - made of numbers

    @property
    def numbers(self) -> NumberTable:
        """Return the table of the counts."""
        ranges = (f"{number(self.bin_s * index)} to {number(self.bin_s * (index + 1))}" for index in range(_MOST_BINS))
        return NumberTable(
            ["samples"], [(text, [f"{count:,}"]) for text, count in zip(ranges, self.counts, strict=False)]
        )


@dataclass(frozen=True, slots=True)
class ShownAudit:
    """The audit of a log, in a bounded number of parts.

    Attributes:
        letter: Prefix of the titles, empty for a single log.
        audit: The audit.
    """

    letter: str
    audit: DatasetAudit

    @property
    def splits(self) -> list[tuple[str, SplitStatistics]]:
        """Return the statistics of each split."""
        return list(islice(self.audit.splits.items(), _MOST_SPLITS))

    @property
    def histograms(self) -> Iterator[LengthHistogram]:
        """Yield the histogram of each split with lengths."""
        for name, split in self.splits:
            counts = [max(0, count) for count in split.length_counts[:_MOST_BINS]]
            if split.length_bin_s is not None and split.length_bin_s > 0 and any(counts):
                yield LengthHistogram(f"{self.letter}Lengths of {name} (s)", split.length_bin_s, counts)

    @property
    def findings(self) -> Sequence[DatasetFinding]:
        """Return the first findings, the most severe."""
        return self.audit.findings[:_MOST_FINDINGS]

    @staticmethod
    def samples(finding: DatasetFinding) -> Sequence[FoundSample]:
        """Return the samples of a finding."""
        return finding.samples[:_MOST_SAMPLES]

    @staticmethod
    def listed(counts: Mapping[str, int]) -> list[tuple[str, int]]:
        """Return names with their counts, the most frequent first."""
        return sorted(counts.items(), key=lambda item: -item[1])[:_MOST_NAMES]
