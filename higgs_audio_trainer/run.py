"""The composition root of a training: connects settings, data, model, trainer, recorder and sinks.

The rank decides here, once, which parts a process gets. A rank that writes nothing gets the null pipeline.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
import sinks
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.audit.verdict import check_strictly, level_of
from higgs_audio_trainer.data.batch import Collator, Seconds, SpeechDataset
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.data.preparation.progress import ProgressLine
from higgs_audio_trainer.data.sources import Columns
from higgs_audio_trainer.errors import LoggingError, UserError
from higgs_audio_trainer.events import DatasetAudit, Diagnosis
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.output_dir.attempt import Attempt, Claim, claim, plan_attempt
from higgs_audio_trainer.pipeline.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.pipeline.failure_message import Say
from higgs_audio_trainer.pipeline.processors import NamedProcessor, load_processors
from higgs_audio_trainer.recording.audio_previews import AudioPreviews
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.preparation_log import FILE_NAME, PreparationLog, PreparationReports
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import IsLoggedStep, RecorderSettings, every, never
from higgs_audio_trainer.redaction import Redactor
from higgs_audio_trainer.training.argument_checks import notes_on
from higgs_audio_trainer.training.arguments import training_arguments
from higgs_audio_trainer.training.base_checkpoint import BaseCheckpoint, codec_of, fingerprint_of, open_checkpoint
from higgs_audio_trainer.training.beginning import Beginning, changes_of, notes_in_force
from higgs_audio_trainer.training.collective import on_every_rank, on_rank_0
from higgs_audio_trainer.training.model import load_lora_model
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests, quiet_third_parties
from higgs_audio_trainer.training.progress import TrainingBar
from higgs_audio_trainer.training.resumption import check_resumable, samples_of, settings_of
from higgs_audio_trainer.training.run_facts import run_facts
from higgs_audio_trainer.training.shared_files import check_shared_files
from higgs_audio_trainer.training.signals import Diagnosed, StopReason, StopSignals, exit_status, under_torchrun
from higgs_audio_trainer.training.stopping import Stopping
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from sinks import specification
from sinks.jsonl import JsonlSink
from sinks.terminal.escape import printable_lines
from sinks.terminal.screen import Screen

_LAST_EVENTS_S = 3.0  # for `run_end` and the sinks, when the launcher is about to kill the process
NamedSink = tuple[str, sinks.Sink]


@dataclass(frozen=True, slots=True)
class _Data:
    datasets: list[PreparedDataset]
    audit: DatasetAudit

    @property
    def train(self) -> PreparedDataset:
        return self.datasets[0]

    @property
    def evaluation(self) -> PreparedDataset | None:
        return self.datasets[1] if len(self.datasets) > 1 else None


@dataclass(frozen=True, slots=True)
class _Console:
    """Outputs for the person who runs the training. None of them waits for a reader."""

    screen: Screen
    say: Say  # prints messages before the first event
    note: Say  # prints failures, with secrets redacted


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        run_id: Identifier of the run.
        step: Optimizer steps done.
        attempt: Number of the attempt, 0 at first.
        stopped_by: Signal or finding that stopped the run after a checkpoint. None for a completed run.
        failed_by: With `--diagnose fail`, the finding that ended the run or was made at its last step; on rank 0.

    Example:
        >>> RunResult("adebb10e1cfc", step=60, attempt=0).stopped_by is None  # the run completed
        True
    """

    run_id: str
    step: int
    attempt: int
    stopped_by: StopReason | None = None
    failed_by: Diagnosis | None = None


def run_training(settings: TrainSettings, *, more_sinks: Sequence[NamedSink] = (), say: Say | None = None) -> RunResult:
    """Train LoRA adapters, as `higgs-audio-trainer train` does.

    Args:
        settings: Settings of the run.
        more_sinks: Names and callables of further sinks, on rank 0.
        say: Prints messages before the first event, such as the names of skipped samples. None for stdout.

    Returns:
        The outcome of the run. The adapter and the checkpoints are in `settings.output_dir`.

    Raises:
        UserError: An input is wrong. Nothing was trained.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from higgs_audio_trainer import demo
        >>> from higgs_audio_trainer.demo.tiny import write_tiny
        >>> clips = Path(demo.__file__).parent / "clips"
        >>> with TemporaryDirectory() as folder:
        ...     model, codec = write_tiny(Path(folder))
        ...     settings = TrainSettings(
        ...         train_manifest=str(clips / "manifest.jsonl"), output_dir=f"{folder}/out",
        ...         codes_dir=f"{folder}/codes",
        ...         base_ckpt=str(model), audio_tokenizer=str(codec), max_steps=1, grad_accum=1, sinks="jsonl",
        ...     )
        ...     result = run_training(settings, say=lambda text: None)
        ...     result.step, (Path(folder) / "out" / "adapter_model.safetensors").exists()
        (1, True)
    """
    quiet_third_parties()
    with _sink_errors():  # refuses a wrong name before anything is loaded
        specification.load(settings.sinks)
    processors = load_processors(settings.processors)
    if settings.diagnose == "fail" and not _logs(settings, more_sinks):
        raise UserError(
            "--diagnose fail: expected a sink, since checks read the log, got --sinks none. Add a sink: --sinks jsonl"
        )
    screen = Screen(sys.stdout, sys.stderr)
    redact = Redactor(settings.as_mapping(), os.environ)
    console = _Console(
        screen, say or (lambda text: screen.show(printable_lines(text))), lambda text: screen.note(redact(text))
    )
    try:
        return _run(settings, more_sinks, processors, console)
    except Exception as error:
        redact.hide_in(error)
        raise
    finally:
        screen.close()


def _run(
    settings: TrainSettings, more_sinks: Sequence[NamedSink], processors: Sequence[NamedProcessor], console: _Console
) -> RunResult:
    arguments = training_arguments(settings)
    checkpoint = on_every_rank(arguments, lambda: open_checkpoint(settings.base_ckpt))
    codebooks = settings.codebooks(checkpoint.config.num_codebooks)
    attempt, fixed = on_rank_0(arguments, lambda: _plan(settings, arguments, console.say))
    data = _prepare_data(
        settings, checkpoint, arguments, attempt, console
    )  # ranks share the work, and wait in no collective
    on_every_rank(arguments, lambda: check_shared_files(attempt, data.datasets, arguments))
    fixed |= samples_of(data.train, data.evaluation)
    set_seed(arguments.seed)
    model = on_every_rank(arguments, lambda: load_lora_model(settings))
    built = on_every_rank(arguments, lambda: _build_sinks(settings, arguments, attempt, more_sinks, console))
    emit = _build_emit(settings, arguments, attempt, built, processors, console)
    checks = LiveChecks(emit, fails=settings.diagnose == "fail") if _has_checks(settings, arguments, built) else None
    trainer: HiggsAudioTrainer  # resolves a share of all steps; built below, since it takes the recorder
    interval = partial(_interval, settings.log_steps, lambda: trainer.state.logging_steps)
    previews = _previews(settings, arguments, checkpoint, emit, interval(settings.log_audio)) if built else None
    is_logged_step = interval() if _logs(settings, more_sinks) else never
    record = _recorder_settings(settings, checkpoint, codebooks if built else None, is_logged_step)
    recorder = Recorder(emit, record, sinks=built, checks=checks, previews=previews)
    bar = TrainingBar(console.screen.status_stream())
    with ExitStack() as cleanup:
        cleanup.callback(recorder.close)
        cleanup.callback(bar.close)
        if previews is not None:
            cleanup.callback(partial(previews.close, wait=False))
        stop = StopSignals(partial(_give_up, recorder, console.screen), **under_torchrun(os.environ))
        stopping = Stopping(lambda: stop.received or _failed_check(checks))
        claims: list[Claim] = []  # of rank 0

        def start() -> None:
            changes = changes_of(attempt, fixed, trainer)
            if arguments.process_index == 0:
                for note in notes_in_force(attempt, changes, trainer):
                    console.say(note)
            facts = run_facts(
                settings, trainer, checkpoint, attempt, changes, len(data.train), len(data.evaluation or ())
            )
            recorder.start(facts, current_step=lambda: trainer.state.global_step, checkpoint=attempt.checkpoint)
            if arguments.process_index == 0 and attempt.checkpoint is None:  # once a run, however often it is resumed
                emit(data.audit, level=level_of(data.audit))
            for claimed in claims:
                claimed.is_logged = bool(built)

        def first_step() -> None:
            for claimed in claims:
                claimed.train()

        beginning = Beginning(start, first_step)
        trainer = _build_trainer(
            settings, arguments, checkpoint, model, data, recorder, [bar, beginning], stopping, beginning, fixed
        )
        on_rank_0(arguments, lambda: claims.append(cleanup.enter_context(claim(settings.output_dir, attempt))))
        cleanup.enter_context(stop)
        _train(trainer, attempt, recorder, stopping, previews)
    stopped_by = stopping.stopped_by or _failed_check(checks)
    return RunResult(
        attempt.run_id, trainer.state.global_step, attempt.number, stopped_by, checks.failed_by if checks else None
    )


def _has_checks(settings: TrainSettings, arguments: TrainingArguments, built: Sequence[NamedSink]) -> bool:
    """Return True on rank 0, which checks the figures of all ranks."""
    return settings.diagnose != "off" and arguments.process_index == 0 and bool(built)


def _interval(log_steps: float, resolved: Callable[[], float], times: int = 1) -> IsLoggedStep:
    """Return the rule for an interval of steps. A share of all steps is resolved when the trainer knows all steps."""
    if log_steps >= 1:
        return every(int(log_steps) * times)
    return lambda step: step == 1 or step % (int(resolved()) * times) == 0


def _previews(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    emit: Emit,
    is_previewed: IsLoggedStep,
) -> AudioPreviews | None:
    if not settings.log_audio or arguments.process_index != 0:
        return None
    return AudioPreviews(
        settings.audio_tokenizer or codec_of(settings.base_ckpt),
        settings.output_dir,
        is_previewed=is_previewed,
        seconds=settings.log_audio_seconds,
        num_codes=min(checkpoint.ids.stream_bos, checkpoint.ids.stream_eos),
        fail=partial(emit.fail, "audio"),
    )


def _failed_check(checks: LiveChecks | None) -> Diagnosed | None:
    return Diagnosed.diagnosis if checks is not None and checks.failed_by is not None else None


def _plan(settings: TrainSettings, arguments: TrainingArguments, say: Say) -> tuple[Attempt, dict[str, Any]]:
    """Return the attempt, and the settings that its checkpoints fix."""
    attempt = plan_attempt(settings.output_dir, settings.resume, restarts=_restarts())
    fixed = settings_of(settings, arguments, base=fingerprint_of(settings.base_ckpt))
    for note in (*attempt.notes, *notes_on(arguments, settings)):
        say(note)
    if attempt.checkpoint is not None:
        check_resumable(attempt.checkpoint, fixed, arguments)
    return attempt, fixed


def _give_up(recorder: Recorder, screen: Screen, received: Signals) -> None:
    """End a process that cannot reach the end of its step before its launcher kills it."""

    def end_log() -> None:
        recorder.end(received.name)
        recorder.close()
        screen.close()

    # A hanging sink blocks every thread that emits, so a separate thread emits the last events.
    ending = threading.Thread(target=end_log, daemon=True)
    ending.start()
    ending.join(_LAST_EVENTS_S)
    os._exit(exit_status(received))


def _train(
    trainer: HiggsAudioTrainer,
    attempt: Attempt,
    recorder: Recorder,
    stopping: Stopping,
    previews: AudioPreviews | None,
) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(attempt.checkpoint) if attempt.checkpoint else None)
        if stopping.stopped_by is None:
            trainer.save_model()
        if previews is not None:
            previews.close(wait=stopping.stopped_by is None)
    except BaseException as error:
        with suppress(LoggingError):  # the error that ended the training is reported
            recorder.end("interrupted" if isinstance(error, KeyboardInterrupt) else "error")
        recorder.close()  # before the output directory is given back, which a failed start leaves as it was
        raise
    recorder.end("completed" if stopping.stopped_by is None else stopping.stopped_by.name)


def _build_trainer(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    model: Any,
    data: _Data,
    recorder: Recorder,
    callbacks: list[TrainerCallback],
    stopping: Stopping,
    beginning: Beginning,
    checkpoint_settings: Mapping[str, Any],
) -> HiggsAudioTrainer:
    try:
        trainer = HiggsAudioTrainer(
            recorder=recorder,
            vocabulary=checkpoint.vocabulary,
            text_loss_weight=settings.text_loss_weight,
            stopping=stopping,
            begin=beginning,
            checkpoint_settings=checkpoint_settings,
            max_batch_seconds=settings.max_batch_seconds,
            model=model,
            args=arguments,
            data_collator=Collator(checkpoint.ids),
            train_dataset=SpeechDataset(data.train, checkpoint.ids),
            eval_dataset=SpeechDataset(data.evaluation, checkpoint.ids) if data.evaluation else None,
            callbacks=callbacks,
        )
    except (ValueError, ImportError, RuntimeError, OSError) as error:  # a refused argument, or a missing tracker
        raise UserError(f"transformers.Trainer: {' '.join(str(error).split())}") from error
    trainer.remove_callback(PrinterCallback)  # prints dictionaries between the lines of the console sink
    return trainer


@contextmanager
def _sink_errors() -> Iterator[None]:
    try:
        yield
    except sinks.SinkError as error:
        raise UserError(str(error)) from error


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _logs(settings: TrainSettings, more_sinks: Sequence[NamedSink]) -> bool:
    """Return True if any rank logs. The result is the same on every rank, since the sums are collective."""
    return bool(specification.parse(settings.sinks) or more_sinks)


def _prepare_data(
    settings: TrainSettings,
    checkpoint: BaseCheckpoint,
    arguments: TrainingArguments,
    attempt: Attempt,
    console: _Console,
) -> _Data:
    manifests = [settings.train_manifest, *([settings.eval_manifest] if settings.eval_manifest else [])]
    is_first = arguments.process_index == 0
    line = ProgressLine(console.screen.status_stream()) if is_first else None
    path = Path(settings.output_dir) / "events" / FILE_NAME
    opened = partial(JsonlSink, path, say=console.note)
    is_logged = is_first and any(sink.name == "jsonl" for sink in specification.parse(settings.sinks))
    log = PreparationLog(opened, attempt.run_id, attempt.number, say=console.note) if is_logged else None
    with PreparationReports(line, console.say, log) as reports:
        prepared = prepare_manifests(
            manifests,
            checkpoint,
            codec_name=settings.audio_tokenizer or codec_of(settings.base_ckpt),
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
    return _Data(prepared.datasets, prepared.audit)


def _say_longer(seconds: Seconds, budget: float, say: Say) -> None:
    longer = seconds[seconds > budget]
    if len(longer):
        samples = f"{len(longer)} of {len(seconds)} samples are longer than {budget:g} s"
        say(f"--max_batch_seconds: {samples}, up to {longer.max():.1f} s, and train in batches of their own")


def _build_sinks(
    settings: TrainSettings,
    arguments: TrainingArguments,
    attempt: Attempt,
    more_sinks: Sequence[NamedSink],
    console: _Console,
) -> list[NamedSink]:
    """Return the sinks of this rank. A rank that writes nothing has none."""
    if arguments.process_index != 0 and not settings.log_all_ranks:
        return []
    context = sinks.SinkContext(
        settings.output_dir, attempt.run_id, arguments.process_index, attempt.number, console.screen, console.note
    )
    with _sink_errors():
        built = sinks.build(settings.sinks, context)
    return [*built, *(more_sinks if arguments.process_index == 0 else ())]


def _build_emit(
    settings: TrainSettings,
    arguments: TrainingArguments,
    attempt: Attempt,
    built: Sequence[NamedSink],
    processors: Sequence[NamedProcessor],
    console: _Console,
) -> Emit:
    if not built:
        return NullPipeline(say=console.note)
    return Pipeline(
        built,
        run_id=attempt.run_id,
        attempt=attempt.number,
        rank=arguments.process_index,
        strict=settings.strict_logging,
        say=console.note,
        processors=processors,
    )


def _recorder_settings(
    settings: TrainSettings,
    checkpoint: BaseCheckpoint,
    codebooks: tuple[int, ...] | None,
    is_logged_step: IsLoggedStep,
) -> RecorderSettings:
    """Return the decisions about the record. A rank that writes nothing passes None for the shown codebooks."""
    return RecorderSettings(
        is_logged_step,
        checkpoint.ids.num_codebooks,
        _shown(settings, checkpoint, codebooks) if codebooks is not None else None,
        evaluations=is_logged_step is not never,
        counts=settings.diagnose != "off",
        text_loss_weight=settings.text_loss_weight,
        strict=settings.strict_logging,
    )


def _shown(settings: TrainSettings, checkpoint: BaseCheckpoint, codebooks: tuple[int, ...]) -> WindowSettings:
    return WindowSettings(
        samples=settings.log_samples,
        window=settings.log_window,
        codebooks=codebooks,
        ranks=settings.log_ranks,
        decode=(lambda ids: str(checkpoint.tokenizer.decode(list(ids)))) if settings.log_text else None,
    )
