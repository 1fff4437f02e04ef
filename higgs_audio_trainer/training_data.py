"""The data of a training: manifests prepared by all ranks together, audited, reported and logged."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import TrainingArguments

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.audit.verdict import check_strictly
from higgs_audio_trainer.data.batch import Seconds
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.data.preparation.progress import ProgressLine
from higgs_audio_trainer.data.sources import Columns
from higgs_audio_trainer.events import DatasetAudit
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.pipeline.failure_message import Say
from higgs_audio_trainer.recording.preparation_log import FILE_NAME, PreparationLog, PreparationReports
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests
from higgs_audio_trainer.training_log import Console, codec_name
from sinks import specification
from sinks.jsonl import JsonlSink


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Prepared data of a run.

    Attributes:
        datasets: Training data, and then the evaluation data if there are any.
        audit: Audit of the data.
    """

    datasets: list[PreparedDataset]
    audit: DatasetAudit

    @property
    def train(self) -> PreparedDataset:
        """Training data."""
        return self.datasets[0]

    @property
    def evaluation(self) -> PreparedDataset | None:
        """Evaluation data; None without any."""
        return self.datasets[1] if len(self.datasets) > 1 else None


def prepare_data(
    settings: TrainSettings,
    checkpoint: BaseCheckpoint,
    arguments: TrainingArguments,
    attempt: Attempt,
    console: Console,
) -> TrainingData:
    """Prepare and audit the manifests of a run, with all ranks, and report and log the progress.

    Raises:
        UserError: A manifest or a recording has problems, or with `--strict_data` the audit found an error.
    """
    manifests = [settings.train_manifest, *([settings.eval_manifest] if settings.eval_manifest else [])]
    is_first = arguments.process_index == 0
    line = ProgressLine(sys.stderr) if is_first else None
    path = Path(settings.output_dir) / "events" / FILE_NAME
    opened = partial(JsonlSink, path, say=console.note)
    is_logged = is_first and any(sink.name == "jsonl" for sink in specification.parse(settings.sinks))
    log = PreparationLog(opened, attempt.run_id, attempt.number, say=console.note) if is_logged else None
    with PreparationReports(line, console.say, log) as reports:
        prepared = prepare_manifests(
            manifests,
            checkpoint,
            codec_name=codec_name(settings),
            codes_dir=settings.codes_dir,
            max_seconds=settings.max_seconds,
            skip_bad_samples=settings.skip_bad_samples,
            devices=[str(arguments.device)],
            columns=Columns(settings.text_column, settings.audio_column, settings.speaker_column),
            say=reports.say,
            report=reports.report,
        )
    if settings.strict_data:
        check_strictly(prepared.audit)
    if settings.max_batch_seconds is not None:
        _say_longer(prepared.datasets[0].audio_seconds(), settings.max_batch_seconds, reports.say)
    return TrainingData(prepared.datasets, prepared.audit)


def _say_longer(seconds: Seconds, budget: float, say: Say) -> None:
    longer = seconds[seconds > budget]
    if len(longer):
        samples = f"{len(longer)} of {len(seconds)} samples are longer than {budget:g} s"
        say(f"--max_batch_seconds: {samples}, up to {longer.max():.1f} s, and train in batches of their own")
