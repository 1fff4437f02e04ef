"""Charts of losses, accuracies, codebooks and the optimizer. Several runs are lines of the same charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from higgs_audio_trainer.logs.bounded_series import NumberSeries
from higgs_audio_trainer.report.chart import (
    SMALL,
    WIDE,
    Chance,
    Chart,
    ChartLine,
    ChartMark,
    LegendEntry,
    Panels,
    Plot,
)
from higgs_audio_trainer.report.gather import GatheredLog, SplitCurves
from higgs_audio_trainer.report.heat import HeatMap
from higgs_audio_trainer.report.samples import MOST_SHOWN
from higgs_audio_trainer.report.scale import Axis, axis_of

_LONGEST_NAME = 24  # characters of a probe's id above a small chart
_KINDS = ("training", "evaluation")
_Lettered = Sequence[tuple[str, GatheredLog]]


@dataclass(frozen=True, slots=True)
class Curves:
    """Charts of one run, or of several runs on the same axes.

    Attributes:
        lettered: Logs with the prefixes of their titles, such as "A: ".
        steps: Common axis of steps.
        divergence: Step of the first difference between two logs. None without a difference.
    """

    lettered: _Lettered
    steps: Axis
    divergence: int | None = None

    @property
    def _has_one(self) -> bool:
        return len(self.lettered) == 1

    @property
    def _marks(self) -> list[ChartMark]:
        """Return the marks of errors, warnings and the first difference."""
        found = [
            ChartMark(item.step, item.severity, f"{letter}step {item.step:,}: {item.severity} {item.code}")
            for letter, log in self.lettered
            for item in log.diagnoses
            if item.severity != "note"
        ]
        if self.divergence is not None:
            found.append(ChartMark(self.divergence, "divergence", f"first difference: step {self.divergence:,}"))
        return found

    def _lines(self, name: str) -> list[ChartLine]:
        """Return the training and the evaluation line of each run, for an attribute of `SplitCurves`."""
        found = []
        for run, (letter, log) in enumerate(self.lettered):
            for kind, curves in zip(_KINDS, (log.train, log.evaluation), strict=True):
                series: NumberSeries = getattr(curves, name)
                style = _KINDS.index(kind) if self._has_one else run
                found.append(ChartLine(f"{letter}{kind}".capitalize(), series, style, kind, letter[:1]))
        return [line for line in found if not line.series.is_empty]

    def _legend(self, lines: Sequence[ChartLine]) -> list[LegendEntry]:
        """Return an entry for each line of one run. Of several runs, entries for the runs and for an evaluation."""
        if self._has_one:
            return [LegendEntry(line.name, line.style, line.kind) for line in lines]
        runs = [LegendEntry(letter.strip(": "), run) for run, (letter, _) in enumerate(self.lettered)]
        has_evaluation = any(line.kind == "evaluation" for line in lines)
        return [*runs, *([LegendEntry("thin with full dots: evaluation", 0, "evaluation")] if has_evaluation else [])]

    @property
    def losses(self) -> Iterator[Chart]:
        """Yield the charts of loss and accuracy of audio and text: the evaluation over the training."""
        modalities = [name for name in ("audio", "text") if self._lines(f"{name}_loss")]
        for modality in modalities:
            name = modality.capitalize() if len(modalities) > 1 else ""
            chance = self._chance(modality)
            loss, accuracy = self._lines(f"{modality}_loss"), self._lines(f"{modality}_accuracy")
            near = None if chance is None else chance.value
            axis = axis_of((line.series for line in loss), near=near)
            yield self._chart(f"{name} loss (nats)", loss, axis, chance)
            if accuracy:
                yield self._chart(
                    f"{name} accuracy", accuracy, axis_of((line.series for line in accuracy), is_share=True)
                )

    def _chart(self, title: str, lines: Sequence[ChartLine], axis: Axis, chance: Chance | None = None) -> Chart:
        title = title.strip()
        plot = Plot(WIDE, self.steps, axis)
        return Chart(title[:1].upper() + title[1:], plot, lines, self._marks, chance, self._legend(lines))

    def _chance(self, modality: str) -> Chance | None:
        """Return the chance level of a modality, if all runs with a known level have the same."""
        levels = {level for _, log in self.lettered if (level := log.chance(modality)) is not None}
        return levels.pop() if len(levels) == 1 else None

    @property
    def probes(self) -> Iterator[Panels]:
        """Yield the accuracies of the probes over the steps, with panels for the text and for each codebook."""
        found = [
            (run, letter, sample)
            for run, (letter, log) in enumerate(self.lettered)
            for sample in log.follower.probes[:MOST_SHOWN]
        ]
        for key in dict.fromkeys(key for _, _, sample in found for key in sample.accuracies):
            lines: dict[str, list[ChartLine]] = {}
            for run, letter, sample in found:
                if key in sample.accuracies:
                    name = sample.sample_id[:_LONGEST_NAME]
                    line = ChartLine(f"{letter}{name}", sample.accuracies[key], run)
                    lines.setdefault(sample.sample_id, []).append(line)
            what = "text" if key[0] == "text" else f"codebook {key[1]}"
            yield self._panels(f"Accuracy of the probes: {what}", lines, is_share=True)

    def _panels(self, title: str, lines: Mapping[str, list[ChartLine]], *, is_share: bool) -> Panels:
        """Return small charts with the same axes, by name."""
        axis = axis_of((line.series for some in lines.values() for line in some), is_share=is_share)
        plot = Plot(SMALL, self.steps, axis)
        charts = [Chart(name[:_LONGEST_NAME], plot, some) for name, some in lines.items() if some]
        return Panels(title, charts, self._runs)

    @property
    def _runs(self) -> list[LegendEntry]:
        """Return the legend of panels: the runs, if there are several."""
        return [] if self._has_one else self._legend(())

    @property
    def codebooks(self) -> Iterator[Panels]:
        """Yield the panels of text and each codebook, if the model has codebooks."""
        if not any(log.train.losses for _, log in self.lettered):
            return
        for what in ("loss (nats)", "accuracy"):
            lines: dict[str, list[ChartLine]] = {}
            for run, (letter, log) in enumerate(self.lettered):
                for line in (*text_lines(log.train, what), *codebook_lines(log.train, what)):
                    lines.setdefault(line.name, []).append(line._replace(name=f"{letter}{line.name}", style=run))
            yield self._panels(f"Text and each codebook: {what}", lines, is_share=what == "accuracy")

    @property
    def heat(self) -> Iterator[HeatMap]:
        """Yield the heat maps of the codebooks, if the model has codebooks."""
        for what in ("accuracy", "loss (nats)"):
            found = [(letter, codebook_lines(log.train, what)) for letter, log in self.lettered]
            axis = axis_of((line.series for _, lines in found for line in lines), is_share=what == "accuracy")
            for letter, lines in found:
                if lines:
                    yield HeatMap(f"{letter}Codebook by step: {what}", lines, axis)

    @property
    def optimizer(self) -> Iterator[Chart]:
        """Yield the charts of learning rate, gradient norm and total loss, if there are logged steps."""
        if not any(log.train.steps for _, log in self.lettered):
            return
        for name, attribute in (("Learning rate", "learning_rate"), ("Gradient norm before clipping", "grad_norm")):
            lines = [
                ChartLine(f"{letter}{name.lower()}", getattr(log, attribute), run, "training", letter[:1])
                for run, (letter, log) in enumerate(self.lettered)
            ]
            axis = axis_of(line.series for line in lines)
            yield Chart(name, Plot(WIDE, self.steps, axis), lines, self._marks, legend=self._runs)
        total = self._lines("loss")
        if self._lines("audio_loss") and self._lines("text_loss"):
            yield self._chart("Total loss (nats)", total, axis_of(line.series for line in total))


def text_lines(curves: SplitCurves, what: str) -> list[ChartLine]:
    """Return the line of the text, if there are text targets.

    Args:
        curves: Curves of the training.
        what: `accuracy`, else the loss.
    """
    series = curves.text_accuracy if what == "accuracy" else curves.text_loss
    return [] if series.is_empty else [ChartLine("text", series)]


def codebook_lines(curves: SplitCurves, what: str) -> list[ChartLine]:
    """Return a line for each codebook. The arguments are as for `text_lines`."""
    series = curves.accuracies if what == "accuracy" else curves.losses
    return [ChartLine(f"codebook {index}", one) for index, one in enumerate(series)]


def cost_chart(letter: str, log: GatheredLog, steps: Axis, values: Axis) -> Chart:
    """Return the chart of durations of a log. The first difference of two runs does not depend on durations."""
    lines = [ChartLine("Step", log.step_ms, 0), ChartLine("Of which logging", log.logging_ms, 1)]
    legend = [LegendEntry(line.name, line.style) for line in lines]
    return Chart(f"{letter}Time of a logged step (ms)", Plot(WIDE, steps, values), lines, legend=legend)
