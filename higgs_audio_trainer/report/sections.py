"""Charts of the sections of the page, for one log or for two logs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from higgs_audio_trainer.logs.bounded_series import NumberSeries
from higgs_audio_trainer.report.chart import SMALL, WIDE, Chart, ChartLine, ChartMark, Plot
from higgs_audio_trainer.report.dataset import ShownAudit
from higgs_audio_trainer.report.gather import GatheredLog, SplitCurves
from higgs_audio_trainer.report.heat import HeatMap
from higgs_audio_trainer.report.samples import MOST_SHOWN, LogSamples, ShownSample, shown_samples
from higgs_audio_trainer.report.scale import SHARES, Axis, axis_of
from higgs_audio_trainer.report.sounds import AudioEmbedder
from higgs_audio_trainer.report.timeline import Timeline
from higgs_audio_trainer.report.voice import VoiceTable, voice_table

_LONGEST_NAME = 24  # characters of a probe's id above a small chart


@dataclass(frozen=True, slots=True)
class Sheet:
    """Logs of a page, and the charts that the page draws of the logs.

    Attributes:
        logs: One log or two logs.
        divergence: Step of the first difference between two logs. None without a difference.
        embedder: Makes the sounds of the page. The sections take the room for sounds in their order.
    """

    logs: Sequence[GatheredLog]
    divergence: int | None = None
    embedder: AudioEmbedder = field(default_factory=AudioEmbedder)

    @property
    def lettered(self) -> list[tuple[str, GatheredLog]]:
        """Return the logs with the prefixes of their titles."""
        letters = ("",) if len(self.logs) == 1 else ("A: ", "B: ")
        return list(zip(letters, self.logs, strict=True))

    @property
    def steps(self) -> Axis:
        """Return the common axis of steps of all charts."""
        steps = [
            step
            for log in self.logs
            for step in (log.train.first_step, log.evaluation.first_step, log.train.last_step, log.last_step or None)
            if step is not None
        ]
        return Axis(min(steps, default=0), max(steps, default=0))

    def marks(self, log: GatheredLog) -> list[ChartMark]:
        """Return the marks of a log: errors, warnings and the first difference."""
        found = [
            ChartMark(item.step, item.severity, f"step {item.step:,}: {item.severity} {item.code}")
            for item in log.diagnoses
            if item.severity != "note"
        ]
        if self.divergence is not None:
            found.append(ChartMark(self.divergence, "divergence", f"first difference: step {self.divergence:,}"))
        return found

    @property
    def voices(self) -> list[VoiceTable]:
        """Return the generated speech of each log."""
        tables = [voice_table(letter, log.voice, log.folder, self.embedder) for letter, log in self.lettered]
        return [table for table in tables if table is not None]

    @property
    def probe_curves(self) -> Iterator[Chart]:
        """Yield the accuracies of the probes over the steps, with a chart of the text and of each codebook."""
        found = [(letter, sample) for letter, log in self.lettered for sample in log.follower.probes[:MOST_SHOWN]]
        for key in dict.fromkeys(key for _, sample in found for key in sample.accuracies):
            name = "text" if key[0] == "text" else f"codebook {key[1]}"
            lines = [
                ChartLine(
                    f"{letter}{sample.sample_id[:_LONGEST_NAME]}", sample.accuracies[key], 2 if key[0] == "text" else 1
                )
                for letter, sample in found
                if key in sample.accuracies
            ]
            yield Chart(f"Accuracy of the probes: {name}", Plot(SMALL, self.steps, SHARES), lines)

    @property
    def curves(self) -> Iterator[Chart]:
        """Yield the charts of losses and accuracies of the training, then of the evaluations."""
        both = [curves for log in self.logs for curves in (log.train, log.evaluation)]
        axis = axis_of(one for curves in both for one in (curves.loss, curves.text_loss, curves.audio_loss))
        for of_evaluations, what in ((False, ""), (True, " of evaluations")):
            for title, values in ((f"Loss{what} (nats)", axis), (f"Accuracy{what}", SHARES)):
                for letter, log in self.lettered:
                    curves = log.evaluation if of_evaluations else log.train
                    lines = _accuracy_lines(curves) if values.is_share else _loss_lines(curves)
                    if curves.steps:
                        yield Chart(f"{letter}{title}", Plot(WIDE, self.steps, values), lines, self.marks(log))

    @property
    def codebooks(self) -> Iterator[Chart]:
        """Yield the charts of text and each codebook, if the model has codebooks."""
        if not any(log.train.losses for log in self.logs):
            return
        axis = axis_of(one for log in self.logs for one in (*log.train.losses, log.train.text_loss))
        for title, values in (("loss (nats)", axis), ("accuracy", SHARES)):
            for letter, log in self.lettered:
                train = log.train
                text = train.text_accuracy if values.is_share else train.text_loss
                lines = [*_drawn(ChartLine("text", text, 2)), *_codebook_lines(train, is_share=values.is_share)]
                yield Chart(f"{letter}Text and each codebook: {title}", Plot(SMALL, self.steps, values), lines)

    @property
    def heat(self) -> Iterator[HeatMap]:
        """Yield the heat maps of the codebooks, if the model has codebooks."""
        axis = axis_of((one for log in self.logs for one in log.train.losses), from_zero=False)
        for title, values in (("accuracy", SHARES), ("loss (nats)", axis)):
            for letter, log in self.lettered:
                if lines := _codebook_lines(log.train, is_share=values.is_share):
                    yield HeatMap(f"{letter}Codebook by step: {title}", lines, values)

    @property
    def timelines(self) -> list[tuple[str, Timeline]]:
        """Return the diagnoses of each log by step."""
        return [
            (letter, Timeline(log.diagnoses, self.steps, log.severities.total() - len(log.diagnoses)))
            for letter, log in self.lettered
        ]

    @property
    def audits(self) -> list[ShownAudit]:
        """Return the audits of the data."""
        return [ShownAudit(letter, log.audit) for letter, log in self.lettered if log.audit is not None]

    @property
    def samples(self) -> list[ShownSample]:
        """Return the samples of training and evaluation to show."""
        return self._samples_of("train", "eval")

    @property
    def probes(self) -> list[ShownSample]:
        """Return the samples of the probes to show."""
        return self._samples_of("probe")

    def _samples_of(self, *splits: str) -> list[ShownSample]:
        logs = [LogSamples(letter, log.follower, log.folder) for letter, log in self.lettered]
        return shown_samples(logs, splits, self.embedder)

    @property
    def sample_events(self) -> int:
        """Return the number of events with predictions of samples of training and evaluation."""
        return sum(log.follower.events - log.follower.probe_events for log in self.logs)

    @property
    def probe_events(self) -> int:
        """Return the number of events with predictions of probes."""
        return sum(log.follower.probe_events for log in self.logs)

    @property
    def settings(self) -> Iterator[Chart]:
        """Yield the charts of learning rate and gradient norm, if there are logged steps."""
        rates, norms = [log.learning_rate for log in self.logs], [log.grad_norm for log in self.logs]
        if any(log.train.steps for log in self.logs):
            for name, series in (("Learning rate", rates), ("Gradient norm before clipping", norms)):
                plot = Plot(WIDE, self.steps, axis_of(series))
                for (letter, log), one in zip(self.lettered, series, strict=True):
                    yield Chart(f"{letter}{name}", plot, [ChartLine(name.lower(), one)], self.marks(log))

    @property
    def cost(self) -> Iterator[tuple[str, GatheredLog, Chart]]:
        """Yield each log with the chart of durations, if there are logged steps."""
        axis = axis_of(one for log in self.logs for one in (log.step_ms, log.logging_ms))
        if any(log.train.steps for log in self.logs):
            for letter, log in self.lettered:
                lines = [ChartLine("step", log.step_ms, 0), ChartLine("of which logging", log.logging_ms, 1)]
                title, plot = f"{letter}Time of a logged step (ms)", Plot(WIDE, self.steps, axis)
                marks = Sheet(self.logs).marks(log)  # the difference of two runs does not depend on durations
                yield letter, log, Chart(title, plot, lines, marks)


def _drawn(*lines: ChartLine) -> list[ChartLine]:
    return [line for line in lines if not line.series.is_empty]


def _loss_lines(curves: SplitCurves) -> list[ChartLine]:
    audio, text = ChartLine("audio", curves.audio_loss, 1), ChartLine("text", curves.text_loss, 2)
    return _drawn(ChartLine("total", curves.loss, 0), audio, text)


def _accuracy_lines(curves: SplitCurves) -> list[ChartLine]:
    return _drawn(ChartLine("audio", curves.audio_accuracy, 1), ChartLine("text", curves.text_accuracy, 2))


def _codebook_lines(curves: SplitCurves, *, is_share: bool) -> list[ChartLine]:
    series: Sequence[NumberSeries] = curves.accuracies if is_share else curves.losses
    return [ChartLine(f"codebook {index}", one, 1) for index, one in enumerate(series)]
