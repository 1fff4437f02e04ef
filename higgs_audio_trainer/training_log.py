"""The log of a training: sinks, pipeline, checks, decoder and recorder of a rank, by the settings of the run.

A rank that writes nothing gets the null pipeline, and adds its sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from transformers import TrainingArguments

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
import sinks
from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import Diagnosis
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.pipeline.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.pipeline.failure_message import Say
from higgs_audio_trainer.pipeline.processors import NamedProcessor
from higgs_audio_trainer.recording.audio_previews import AudioPreviews
from higgs_audio_trainer.recording.decoder_process import DecoderProcess
from higgs_audio_trainer.recording.generations import Generations
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.milestones import MilestoneKeeper
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import IsLoggedStep, RecorderSettings, every, never
from higgs_audio_trainer.training.signals import Diagnosed
from sinks import specification
from sinks.terminal.screen import Screen

_SCORING = 10  # times the time limit of a file, where models score the speech
NamedSink = tuple[str, sinks.Sink]


@dataclass(frozen=True, slots=True)
class Console:
    """Outputs for the person who runs the training. None of them waits for a reader."""

    screen: Screen
    say: Say  # prints messages before the first event
    note: Say  # prints failures, with secrets redacted


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The log of a training on one rank.

    Attributes:
        sinks: Names and callables of the sinks. Empty on a rank that writes nothing.
        emit: Receives the events.
        recorder: Records the training.
        keeper: Keeps first, last and best figures.
        checks: Checks the record. None on a rank that checks nothing.
        decoder: Decodes codes to WAV files. None on a rank that decodes nothing.
    """

    sinks: Sequence[NamedSink]
    emit: Emit
    recorder: Recorder
    keeper: MilestoneKeeper
    checks: LiveChecks | None
    decoder: DecoderProcess | None

    @property
    def failed_by(self) -> Diagnosis | None:
        """First finding that ends the run; None if no finding ends the run."""
        return None if self.checks is None else self.checks.failed_by

    @property
    def stop_reason(self) -> Diagnosed | None:
        """Reason to stop; None without one."""
        return None if self.failed_by is None else Diagnosed.diagnosis

    def end_speech(self, *, wait: bool) -> None:
        """End the decoder, and emit the events of the speech that it decoded or did not come to decode.

        Args:
            wait: Give the decoder the time limit of one file.
        """
        if self.decoder is not None:
            self.decoder.close(wait=wait)
            self.recorder.record_decoded()

    def close(self) -> None:
        """End the decoder without waiting for its files, and close the sinks. A second call does nothing."""
        if self.decoder is not None:
            self.decoder.close(wait=False)
        self.recorder.close()


def open_log(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    attempt: Attempt,
    console: Console,
    *,
    more_sinks: Sequence[NamedSink],
    processors: Sequence[NamedProcessor],
    speaks: bool,
    interval: Callable[[], float],
) -> TrainingLog:
    """Return the log of this rank.

    Args:
        settings: Settings of the run.
        arguments: Arguments of the trainer.
        checkpoint: Base checkpoint.
        attempt: Attempt of the run.
        console: Outputs for the person who runs the training.
        more_sinks: Names and callables of further sinks, on rank 0.
        processors: Processors of the events.
        speaks: Whether the run speaks its probes.
        interval: Returns the steps between logged steps, once the trainer knows all steps.

    Raises:
        UserError: A sink cannot be set up.
    """
    codebooks = settings.codebooks(checkpoint.ids.num_codebooks)
    built = _build_sinks(settings, arguments, attempt, more_sinks, console)
    emit = _build_emit(settings, arguments, attempt, built, processors, console)
    is_first = arguments.process_index == 0 and bool(built)
    checks = LiveChecks(emit, fails=settings.diagnose == "fail") if is_first and settings.diagnose != "off" else None
    decoder = _decoder(settings, emit) if is_first and (settings.log_audio or speaks) else None
    is_logged_step = logged_every(settings.log_steps, interval) if has_log(settings, more_sinks) else never
    is_previewed = logged_every(settings.log_steps, interval, settings.log_audio)
    keeper = MilestoneKeeper(emit)
    recorder = Recorder(
        emit,
        _recorder_settings(settings, checkpoint, codebooks if built else None, is_logged_step),
        sinks=built,
        checks=checks,
        previews=_previews(settings, checkpoint, decoder, is_previewed),
        generations=Generations(decoder, codebooks=codebooks, window=settings.log_window) if decoder else None,
        keeper=keeper,
    )
    return TrainingLog(built, emit, recorder, keeper, checks, decoder)


def has_log(settings: TrainSettings, more_sinks: Sequence[NamedSink]) -> bool:
    """Return True if any rank logs. The result is the same on every rank, since the sums are collective."""
    return bool(specification.parse(settings.sinks) or more_sinks)


@contextmanager
def sink_errors() -> Iterator[None]:
    """Turn an error of a sink into a `UserError`."""
    try:
        yield
    except sinks.SinkError as error:
        raise UserError(str(error)) from error


def _build_sinks(
    settings: TrainSettings,
    arguments: TrainingArguments,
    attempt: Attempt,
    more_sinks: Sequence[NamedSink],
    console: Console,
) -> list[NamedSink]:
    """Return the sinks of this rank; an empty list for a rank that writes nothing."""
    if arguments.process_index != 0 and not settings.log_all_ranks:
        return []
    context = sinks.SinkContext(
        settings.output_dir, attempt.run_id, arguments.process_index, attempt.number, console.screen, console.note
    )
    with sink_errors():
        built = sinks.build(settings.sinks, context)
    return [*built, *(more_sinks if arguments.process_index == 0 else ())]


def _build_emit(
    settings: TrainSettings,
    arguments: TrainingArguments,
    attempt: Attempt,
    built: Sequence[NamedSink],
    processors: Sequence[NamedProcessor],
    console: Console,
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
        text_loss_weight=settings.text_weight,
        strict=settings.strict_logging,
    )


def _shown(settings: TrainSettings, checkpoint: BaseCheckpoint, codebooks: tuple[int, ...]) -> WindowSettings:
    return WindowSettings(
        samples=settings.log_samples,
        window=settings.log_window,
        codebooks=codebooks,
        ranks=settings.log_ranks,
        decode=(lambda ids: str(checkpoint.tokenizer.decode(list(ids)))) if settings.log_text else None,
        empty_texts=checkpoint.ids.learns_text,
    )


def logged_every(log_steps: float, resolved: Callable[[], float], times: int = 1) -> IsLoggedStep:
    """Return the rule for an interval of steps. A share of all steps is resolved when the trainer knows all steps."""
    if log_steps >= 1:
        return every(int(log_steps) * times)
    return lambda step: step == 1 or step % (int(resolved()) * times) == 0


def _decoder(settings: TrainSettings, emit: Emit) -> DecoderProcess:
    scores = settings.say_asr or settings.say_speaker
    return DecoderProcess(
        (codec_name(settings), settings.say_asr or "", settings.say_speaker or ""),
        settings.output_dir,
        seconds=settings.log_audio_seconds * (_SCORING if scores else 1),
        fail=partial(emit.fail, "audio"),
    )


def _previews(
    settings: TrainSettings, checkpoint: BaseCheckpoint, decoder: DecoderProcess | None, is_previewed: IsLoggedStep
) -> AudioPreviews | None:
    if decoder is None or not settings.log_audio:
        return None
    num_codes = min(checkpoint.ids.stream_bos, checkpoint.ids.stream_eos)
    return AudioPreviews(decoder, is_previewed=is_previewed, num_codes=num_codes)


def codec_name(settings: TrainSettings) -> str:
    """Return the folder or the name of the codec of a run."""
    return settings.audio_tokenizer or codec_of(settings.base_ckpt)
