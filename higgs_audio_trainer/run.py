"""The composition root: one place that knows settings, data, model, trainer and sinks, and wires them.

Rank is decided here, once: a rank with nothing to write gets the null pipeline.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from signal import Signals
from typing import Any, TypeVar, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

import sinks
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.batch import Collator, PreparedSample, SpeechDataset
from higgs_audio_trainer.errors import LoggingError, UserError
from higgs_audio_trainer.events import Diagnosis, RunStart
from higgs_audio_trainer.extraction.windows import Shown
from higgs_audio_trainer.output_dir.attempt import Attempt, check_adapter, claim, plan_attempt
from higgs_audio_trainer.pipeline.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.pipeline.processors import NamedProcessor, load_processors
from higgs_audio_trainer.recording.audio_previews import AudioPreviews
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Telemetry, due_every, never_due
from higgs_audio_trainer.recording.run_log import RunLog
from higgs_audio_trainer.redaction import Redactor
from higgs_audio_trainer.training.arguments import training_arguments, uses_cuda
from higgs_audio_trainer.training.base_checkpoint import BaseCheckpoint, codec_of, open_checkpoint
from higgs_audio_trainer.training.model import HiggsAudioForTraining, add_lora
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests, quiet_third_parties
from higgs_audio_trainer.training.progress import TrainingBar
from higgs_audio_trainer.training.run_start import run_start
from higgs_audio_trainer.training.signals import Diagnosed, StopReason, StopSignals, exit_status, under_torchrun
from higgs_audio_trainer.training.stopping import Stopping
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from sinks.terminal.escape import printable_lines

T = TypeVar("T")
_LAST_WORDS_S = 3.0
NamedSink = tuple[str, sinks.Sink]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Data:
    train: list[PreparedSample]
    evaluation: list[PreparedSample]


@dataclass(frozen=True, slots=True)
class _Console:
    """Ways to the person who runs it, none of which waits for a reader."""

    screen: sinks.Screen
    say: Say  # what must be known before the first event
    note: Say  # what went wrong, without the secrets that an error may quote


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_id: identifies the run.
        step: optimizer steps done.
        attempt: number of the attempt.
        stopped_by: what stopped it, after a checkpoint was saved; None where it came to its own end.
        failed_by: the diagnosis that ended it, or was found at its last step, with `--diagnose fail`; on rank 0.
    """

    run_id: str
    step: int
    attempt: int
    stopped_by: StopReason | None = None
    failed_by: Diagnosis | None = None


def run_training(settings: TrainSettings, *, more_sinks: Sequence[NamedSink] = (), say: Say | None = None) -> RunResult:
    """Train as the settings say.

    Args:
        settings: the run's settings.
        more_sinks: sinks beside those that the settings name, on rank 0.
        say: tells a person what must be known before the first event, such as skipped samples; None: on stdout.

    Raises:
        UserError: something of the input is wrong. Nothing was trained.
    """
    quiet_third_parties()
    with _sink_errors():  # a wrong name is said before anything is loaded
        sinks.load(settings.sinks)
    processors = load_processors(settings.processors)
    if settings.diagnose == "fail" and not _logs(settings, more_sinks):
        raise UserError(
            "--diagnose fail: expected a sink, for what is logged is checked, got --sinks none. Name one: --sinks jsonl"
        )
    screen = sinks.Screen(sys.stdout, sys.stderr)
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
    checkpoint = open_checkpoint(settings.base_ckpt)
    codebooks = settings.codebooks(checkpoint.config.num_codebooks)
    arguments = training_arguments(settings)
    attempt = _on_rank_0(arguments, lambda: _plan(settings, console.say))
    data = _on_rank_0(arguments, lambda: _prepare_data(settings, checkpoint, arguments, console.say))
    set_seed(arguments.seed)
    model = _load_model(settings, checkpoint)
    built = _on_every_rank(arguments, lambda: _build_sinks(settings, arguments, attempt, more_sinks, console))
    emit = _build_emit(settings, arguments, attempt, built, processors, console)
    watch = LiveChecks(emit, fails=settings.diagnose == "fail") if _watches(settings, arguments, built) else None
    log = RunLog(emit, built, watch)
    ears = _ears(settings, arguments, checkpoint, emit) if built else None
    bar = TrainingBar(console.screen.status_stream())
    with ExitStack() as cleanup:
        cleanup.callback(log.close)
        cleanup.callback(bar.close)
        if ears is not None:
            cleanup.callback(partial(ears.close, wait=False))
        stop = StopSignals(partial(_give_up, log, console.screen), **under_torchrun(os.environ))
        stopping = Stopping(lambda: stop.received or _verdict(watch))
        telemetry = Telemetry(
            emit=emit,
            is_due=due_every(settings.log_steps) if _logs(settings, more_sinks) else never_due,
            evaluations=_logs(settings, more_sinks),
            shown=_shown(settings, checkpoint, codebooks) if built else None,
            strict=settings.strict_logging,
            vocabulary=checkpoint.vocabulary,
            counts=settings.diagnose != "off",
            watch=watch,
            ears=ears,
        )
        trainer = _build_trainer(settings, arguments, checkpoint, model, data, telemetry, [bar], stopping)
        _on_rank_0(arguments, lambda: cleanup.enter_context(claim(settings.output_dir, attempt)))
        cleanup.enter_context(stop)
        first = run_start(settings, arguments, checkpoint, model, attempt, len(data.train), len(data.evaluation))
        _train(trainer, attempt, log, first, stopping, ears)
    stopped_by = stopping.stopped_by or _verdict(watch)
    return RunResult(
        attempt.run_id, trainer.state.global_step, attempt.number, stopped_by, watch.failed_by if watch else None
    )


def _watches(settings: TrainSettings, arguments: TrainingArguments, built: Sequence[NamedSink]) -> bool:
    """Whether this rank has its record checked: rank 0 does, with the figures of all."""
    return settings.diagnose != "off" and arguments.process_index == 0 and bool(built)


def _ears(
    settings: TrainSettings, arguments: TrainingArguments, checkpoint: BaseCheckpoint, emit: Emit
) -> AudioPreviews | None:
    if not settings.log_audio or arguments.process_index != 0:
        return None
    return AudioPreviews(
        settings.audio_tokenizer or codec_of(settings.base_ckpt),
        settings.output_dir,
        is_due=due_every(settings.log_steps * settings.log_audio),
        seconds=settings.log_audio_seconds,
        num_codes=min(checkpoint.ids.stream_bos, checkpoint.ids.stream_eos),
        fail=partial(emit.fail, "audio"),
    )


def _verdict(watch: LiveChecks | None) -> Diagnosed | None:
    return Diagnosed.diagnosis if watch is not None and watch.failed_by is not None else None


def _plan(settings: TrainSettings, say: Say) -> Attempt:
    attempt = plan_attempt(settings.output_dir, settings.resume, restarts=_restarts())
    for damage in attempt.damaged:
        say(f"--resume: passed over {damage}")
    if attempt.checkpoint is not None:
        check_adapter(attempt.checkpoint, r=settings.lora_r, targets=settings.targets())
    return attempt


def _give_up(log: RunLog, screen: sinks.Screen, received: Signals) -> None:
    """End a process whose launcher is about to kill it, and which cannot reach the end of its step."""

    def say_why() -> None:
        log.end(received.name)
        log.close()
        screen.close()

    # On a thread of its own: where a sink hangs, so does who waits for its turn to emit.
    last_words = threading.Thread(target=say_why, daemon=True)
    last_words.start()
    last_words.join(_LAST_WORDS_S)
    os._exit(exit_status(received))


def _train(
    trainer: HiggsAudioTrainer,
    attempt: Attempt,
    log: RunLog,
    first: RunStart,
    stopping: Stopping,
    ears: AudioPreviews | None,
) -> None:
    try:
        log.start(first, lambda: (trainer.state.global_step, trainer.extraction_seconds), attempt.checkpoint)
        trainer.train(resume_from_checkpoint=str(attempt.checkpoint) if attempt.checkpoint else None)
        if stopping.stopped_by is None:
            trainer.save_model()
        if ears is not None:
            ears.close(wait=stopping.stopped_by is None)
    except BaseException as error:
        with suppress(LoggingError):  # the error that ended the training is the one to be told
            log.end("interrupted" if isinstance(error, KeyboardInterrupt) else "error")
        raise
    log.end("completed" if stopping.stopped_by is None else stopping.stopped_by.name)


def _build_trainer(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    model: Any,
    data: _Data,
    telemetry: Telemetry,
    callbacks: list[TrainerCallback],
    stopping: Stopping,
) -> HiggsAudioTrainer:
    try:
        trainer = HiggsAudioTrainer(
            telemetry=telemetry,
            text_loss_weight=settings.text_loss_weight,
            stopping=stopping,
            model=model,
            args=arguments,
            data_collator=Collator(checkpoint.ids),
            train_dataset=SpeechDataset(data.train, checkpoint.ids),
            eval_dataset=SpeechDataset(data.evaluation, checkpoint.ids) if data.evaluation else None,
            callbacks=callbacks,
        )
    except (ValueError, ImportError, RuntimeError) as error:  # an argument it refuses, a tracker that is not there
        raise UserError(f"transformers.Trainer: {' '.join(str(error).split())}") from error
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary where our sinks print a line
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
    """Whether any rank logs: every rank must answer alike, for the sums of a due step are collective."""
    return bool(sinks.parse(settings.sinks) or more_sinks)


def _on_rank_0(arguments: TrainingArguments, work: Callable[[], T]) -> T:
    """Do something on rank 0 and give every rank the result, or the error."""
    outcome: list[Any] = [None, None]
    if arguments.process_index == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = error
    if arguments.world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def _on_every_rank(arguments: TrainingArguments, work: Callable[[], T]) -> T:
    """Do something on every rank; an error of one is raised on all, so that none waits for it."""
    result: Any = None
    errors: list[UserError | None] = [None]
    try:
        result = work()
    except UserError as error:
        errors = [error]
    if arguments.world_size > 1:
        errors = gather_object(errors)
    for failed in errors:
        if failed is not None:
            raise failed
    return cast("T", result)


def _prepare_data(settings: TrainSettings, checkpoint: BaseCheckpoint, arguments: TrainingArguments, say: Say) -> _Data:
    manifests = [settings.train_manifest, *([settings.eval_manifest] if settings.eval_manifest else [])]
    codec_name = settings.audio_tokenizer or codec_of(settings.base_ckpt)
    prepared = prepare_manifests(
        manifests,
        checkpoint,
        codec_name=codec_name,
        codes_dir=settings.codes_dir,
        max_seconds=settings.max_seconds,
        skip_bad_samples=settings.skip_bad_samples,
        device=str(arguments.device),
        say=say,
    )
    return _Data(prepared[0], prepared[1] if len(prepared) > 1 else [])


def _load_model(settings: TrainSettings, checkpoint: BaseCheckpoint) -> Any:
    automatic = torch.bfloat16 if uses_cuda(settings) and torch.cuda.is_bf16_supported() else torch.float32
    dtype = automatic if settings.dtype == "auto" else getattr(torch, settings.dtype)
    try:
        loaded: Any = HiggsAudioForTraining.from_pretrained(settings.base_ckpt, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"--base_ckpt {checkpoint.name}: the weights cannot be loaded: {error}") from error
    base, info = loaded
    if info["missing_keys"]:
        raise UserError(
            f"--base_ckpt {checkpoint.name}: expected weights for {', '.join(sorted(info['missing_keys'])[:5])}, "
            "got none. "
            "text_lm_head.weight must be kept when a checkpoint is converted: the text loss needs it."
        )
    base.text_loss_weight = settings.text_loss_weight
    return add_lora(
        base,
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        targets=settings.targets(),
    )


def _build_sinks(
    settings: TrainSettings,
    arguments: TrainingArguments,
    attempt: Attempt,
    more_sinks: Sequence[NamedSink],
    console: _Console,
) -> list[NamedSink]:
    """Make the sinks of this rank; a rank that is not to write has none."""
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


def _shown(settings: TrainSettings, checkpoint: BaseCheckpoint, codebooks: tuple[int, ...]) -> Shown:
    return Shown(
        samples=settings.log_samples,
        window=settings.log_window,
        codebooks=codebooks,
        ranks=settings.log_ranks,
        decode=(lambda ids: str(checkpoint.tokenizer.decode(list(ids)))) if settings.log_text else None,
    )
