"""The composition root: one place that knows settings, data, model, trainer and sinks, and wires them.

Rank is decided here, once: a rank with nothing to write gets the null pipeline.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

import sinks
from higgs_audio_trainer.arguments import training_arguments, uses_cuda
from higgs_audio_trainer.checkpoint import BaseCheckpoint, codec_of, open_checkpoint
from higgs_audio_trainer.config import TrainSettings, flags, redacted
from higgs_audio_trainer.data.batch import Collator, PreparedSample, SpeechDataset
from higgs_audio_trainer.emit import Emit, NullPipeline, Pipeline
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import RunEnd, RunStart
from higgs_audio_trainer.model import HiggsAudioForTraining, add_lora
from higgs_audio_trainer.outputs import Attempt, check_adapter, claim, plan_attempt
from higgs_audio_trainer.preparation import prepare_manifests, quiet_third_parties
from higgs_audio_trainer.progress import TrainingBar
from higgs_audio_trainer.series import Shown
from higgs_audio_trainer.trainer import HiggsAudioTrainer, Telemetry, due_every, never_due

T = TypeVar("T")
NamedSink = tuple[str, sinks.Sink]
Say = Callable[[str], None]

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "structlog", "numpy")


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    run_id: str
    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class _Data:
    train: list[PreparedSample]
    evaluation: list[PreparedSample]


def run_training(settings: TrainSettings, *, more_sinks: Sequence[NamedSink] = (), say: Say = print) -> RunResult:
    """Train as the settings say.

    Args:
        settings: the run's settings.
        more_sinks: sinks beside those that the settings name, on rank 0.
        say: prints what a person must know before the first event, such as skipped samples.

    Raises:
        UserError: something of the input is wrong. Nothing was trained.
    """
    quiet_third_parties()
    with _sink_errors():  # a wrong name is said before anything is loaded
        sinks.load(settings.sinks)
    checkpoint = open_checkpoint(settings.base_ckpt)
    codebooks = settings.codebooks(checkpoint.config.num_codebooks)
    arguments = training_arguments(settings)
    attempt = _on_rank_0(arguments, lambda: plan_attempt(settings.output_dir, settings.resume, restarts=_restarts()))
    if attempt.checkpoint is not None:
        check_adapter(attempt.checkpoint, r=settings.lora_r, targets=settings.targets())
    data = _on_rank_0(arguments, lambda: _prepare_data(settings, checkpoint, arguments, say))
    set_seed(arguments.seed)
    model = _load_model(settings, checkpoint)
    built = _build_sinks(settings, arguments, attempt, more_sinks)  # may refuse; the directory is not claimed then
    _on_rank_0(arguments, lambda: claim(settings.output_dir, attempt))
    emit = _build_emit(settings, arguments, attempt, built)
    bar = TrainingBar()
    try:
        telemetry = Telemetry(
            emit=emit,
            is_due=due_every(settings.log_steps) if _logs(settings, more_sinks) else never_due,
            evaluations=_logs(settings, more_sinks),
            shown=_shown(settings, checkpoint, codebooks) if built else None,
            strict=settings.strict_logging,
        )
        trainer = _build_trainer(settings, arguments, checkpoint, model, data, telemetry, bar)
        emit(_run_start(settings, arguments, checkpoint, model, data, attempt))
        _train(trainer, attempt, emit)
    finally:
        bar.close()
        _close(built, emit)
    return RunResult(attempt.run_id, trainer.state.global_step, attempt.number)


def _build_trainer(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    model: Any,
    data: _Data,
    telemetry: Telemetry,
    bar: TrainingBar,
) -> HiggsAudioTrainer:
    try:
        trainer = HiggsAudioTrainer(
            telemetry=telemetry,
            text_loss_weight=settings.text_loss_weight,
            model=model,
            args=arguments,
            data_collator=Collator(checkpoint.ids),
            train_dataset=SpeechDataset(data.train, checkpoint.ids),
            eval_dataset=SpeechDataset(data.evaluation, checkpoint.ids) if data.evaluation else None,
            callbacks=[bar],
        )
    except (ValueError, ImportError, RuntimeError) as error:  # an argument it refuses, a tracker that is not there
        raise UserError(f"transformers.Trainer: {' '.join(str(error).split())}") from error
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary where our sinks print a line
    return trainer


def _close(built: Sequence[NamedSink], emit: Emit) -> None:
    for name, sink in built:
        try:
            getattr(sink, "close", lambda: None)()
        except Exception as error:  # noqa: BLE001 - whatever it is, the adapter is on disk and the run has ended
            emit.fail(name, error)


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
    settings: TrainSettings, arguments: TrainingArguments, attempt: Attempt, more_sinks: Sequence[NamedSink]
) -> list[NamedSink]:
    """Make the sinks of this rank; a rank that is not to write has none."""
    if arguments.process_index != 0 and not settings.log_all_ranks:
        return []
    context = sinks.SinkContext(settings.output_dir, attempt.run_id, arguments.process_index, attempt.number)
    with _sink_errors():
        built = sinks.build(settings.sinks, context)
    return [*built, *(more_sinks if arguments.process_index == 0 else ())]


def _build_emit(
    settings: TrainSettings, arguments: TrainingArguments, attempt: Attempt, built: Sequence[NamedSink]
) -> Emit:
    if not built:
        return NullPipeline()
    return Pipeline(
        built,
        run_id=attempt.run_id,
        attempt=attempt.number,
        rank=arguments.process_index,
        strict=settings.strict_logging,
    )


def _shown(settings: TrainSettings, checkpoint: BaseCheckpoint, codebooks: tuple[int, ...]) -> Shown:
    return Shown(
        samples=settings.log_samples,
        window=settings.log_window,
        codebooks=codebooks,
        text_stop_ids=checkpoint.text_stop_ids,
        audio_stop_id=checkpoint.ids.stream_eos,
        audio_token_ids=checkpoint.audio_token_ids,
        decode=(lambda ids: str(checkpoint.tokenizer.decode(list(ids)))) if settings.log_text else None,
    )


def _run_start(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    model: Any,
    data: _Data,
    attempt: Attempt,
) -> RunStart:
    config = {item.name: getattr(settings, item.name) for item in flags()} | {"extra": dict(settings.extra)}
    resolved = {
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        "audio_tokenizer": settings.audio_tokenizer or codec_of(settings.base_ckpt),
    }
    versions = {library: version(library) for library in _LIBRARIES}
    return RunStart(
        config=redacted(config | resolved),
        versions={
            "higgs_audio_trainer": version("higgs-audio-trainer"),
            "python": platform.python_version(),
            **versions,
        },
        world_size=arguments.world_size,
        device=str(arguments.device),
        seed=arguments.seed,
        resumed_from_step=attempt.resumed_from_step,
        num_train_samples=len(data.train),
        num_eval_samples=len(data.evaluation),
        num_codebooks=checkpoint.ids.num_codebooks,
        trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        host=socket.gethostname(),
    )


def _train(trainer: HiggsAudioTrainer, attempt: Attempt, emit: Emit) -> None:
    reason = "error"
    try:
        trainer.train(resume_from_checkpoint=str(attempt.checkpoint) if attempt.checkpoint else None)
        trainer.save_model()
        reason = "completed"
    except KeyboardInterrupt:
        reason = "interrupted"
        raise
    finally:
        emit(
            RunEnd(
                reason=reason,
                step=trainer.state.global_step,
                events_written=emit.written,
                events_lost=emit.lost,
                values_replaced=emit.replaced,
                logging_ms_total=(emit.seconds + trainer.extraction_seconds) * 1000,
            )
        )
