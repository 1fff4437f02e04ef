"""Sections of the page, for one log or for several logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from higgs_audio_trainer.report import run_facts
from higgs_audio_trainer.report.assessment import Assessment, assess, best_evaluation
from higgs_audio_trainer.report.chart import Chart
from higgs_audio_trainer.report.curves import Curves, cost_chart
from higgs_audio_trainer.report.dataset import ShownAudit
from higgs_audio_trainer.report.gather import GatheredLog
from higgs_audio_trainer.report.samples import LogSamples, ShownSample, shown_samples
from higgs_audio_trainer.report.scale import Axis, axis_of, number, share
from higgs_audio_trainer.report.sounds import AudioEmbedder
from higgs_audio_trainer.report.timeline import Timeline
from higgs_audio_trainer.report.voice import VoiceTable, voice_table

_LETTERS = "ABCDEFGH"  # of as many logs as the command takes
_MANY = 3  # runs; the sentences about two runs fit on a screen
_Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ShownRun:
    """Run at the top of the page.

    Attributes:
        letter: Prefix of titles, such as "A: ". Empty for a single log.
        style: Colour and dashes of the run's lines.
        log: Contents of the log.
        is_brief: True if the page has so many runs that all but the headline is folded.
    """

    letter: str
    style: int
    log: GatheredLog
    is_brief: bool

    @property
    def assessment(self) -> Assessment:
        """Return the assessment of the run."""
        return assess(self.log)

    @property
    def facts(self) -> _Pairs:
        """Return the facts that head the page."""
        return run_facts.key_facts(self.log)

    @property
    def settings(self) -> _Pairs:
        """Return all settings by name."""
        return run_facts.settings(self.log)

    @property
    def versions(self) -> _Pairs:
        """Return the versions of the libraries."""
        return run_facts.versions(self.log)

    @property
    def command(self) -> str | None:
        """Return a command line with the settings of the run."""
        return run_facts.command(self.log)


@dataclass(frozen=True, slots=True)
class Sheet:
    """Logs of a page, and what the page draws of the logs.

    Attributes:
        logs: One to eight logs.
        divergence: Step of the first difference between two logs. None without a difference.
        embedder: Makes the sounds of the page. The sections take the room for sounds in their order.
    """

    logs: Sequence[GatheredLog]
    divergence: int | None = None
    embedder: AudioEmbedder = field(default_factory=AudioEmbedder)

    @property
    def lettered(self) -> list[tuple[str, GatheredLog]]:
        """Return the logs with the prefixes of their titles."""
        letters = [""] if len(self.logs) == 1 else [f"{letter}: " for letter in _LETTERS]
        return list(zip(letters, self.logs, strict=False))

    @property
    def runs(self) -> list[ShownRun]:
        """Return the runs at the top of the page."""
        is_brief = len(self.logs) >= _MANY
        return [ShownRun(letter, index, log, is_brief) for index, (letter, log) in enumerate(self.lettered)]

    def comparison(self, differences: Sequence[Mapping[str, str | None]]) -> dict[str, Any] | None:
        """Return the comparison of several runs: figures of each run, settings that differ, and first differences.

        Args:
            differences: Texts of the first difference between the first log and each other log.
        """
        if len(self.logs) == 1:
            return None
        return {
            "rows": [(f"{letter}{log.name}", *_figures(log)) for letter, log in self.lettered],
            "logs": self.lettered,
            "settings": run_facts.different_settings(self.logs),
            "differences": differences,
        }

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

    @property
    def curves(self) -> Curves:
        """Return the charts of losses, accuracies, codebooks and the optimizer."""
        return Curves(self.lettered, self.steps, self.divergence)

    @property
    def voices(self) -> list[VoiceTable]:
        """Return the generated speech of each log."""
        tables = [voice_table(letter, log.voice, log.folder, self.embedder) for letter, log in self.lettered]
        return [table for table in tables if table is not None]

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
        logs = [LogSamples(letter, log.follower, log.folder, log.voice.texts) for letter, log in self.lettered]
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
    def cost(self) -> Iterator[tuple[str, GatheredLog, Chart]]:
        """Yield each log with the chart of durations, if there are logged steps."""
        axis = axis_of(one for log in self.logs for one in (log.step_ms, log.logging_ms))
        if any(log.train.steps for log in self.logs):
            for letter, log in self.lettered:
                yield letter, log, cost_chart(letter, log, self.steps, axis)


def _figures(log: GatheredLog) -> list[str]:
    """Return the last losses, the best evaluation, the last accuracy and the number of findings of a run."""
    train = log.train
    lasts = [None if one.last is None else one.last[1] for one in (train.audio_loss, train.text_loss)]
    best = best_evaluation(log)
    accuracy = train.audio_accuracy.last
    return [
        *map(number, lasts),
        "-" if best is None else f"{number(best[1])} at step {best[0]:,}",
        share(None if accuracy is None else accuracy[1]),
        f"{log.severities['error']:,}, {log.severities['warning']:,}",
    ]
