"""The composition root of a training: connects settings, data, model, trainer, recorder and sinks.

The rank decides here and in `training_log`, once, which parts a process gets.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
from higgs_audio_trainer import phases
from higgs_audio_trainer.checkpoint.base_checkpoint import fingerprint_of, open_checkpoint
from higgs_audio_trainer.checkpoint.processor_files import save_processor
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.audit.verdict import level_of
from higgs_audio_trainer.data.batch import Collator, SpeechDataset
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.errors import LoggingError, UserError
from higgs_audio_trainer.events import Diagnosis, GenerationSample
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.output_dir.attempt import Attempt, Claim, claim, plan_attempt
from higgs_audio_trainer.pipeline.failure_message import Say
from higgs_audio_trainer.pipeline.processors import NamedProcessor, load_processors
from higgs_audio_trainer.recording.milestones import Milestones
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RunFacts
from higgs_audio_trainer.redaction import Redactor
from higgs_audio_trainer.training.argument_checks import notes_on
from higgs_audio_trainer.training.arguments import training_arguments
from higgs_audio_trainer.training.beginning import Beginning, changes_of, notes_in_force
from higgs_audio_trainer.training.best_adapter import LOSSES, NONE, BestAdapter, check_field
from higgs_audio_trainer.training.collective import on_every_rank, on_rank_0
from higgs_audio_trainer.training.heartbeat import LostRankError
from higgs_audio_trainer.training.local_checks import check_machine
from higgs_audio_trainer.training.lora_settings import check_layers, with_lora_config
from higgs_audio_trainer.training.model import check_method, load_model
from higgs_audio_trainer.training.model_card import trained_adapter, trained_card, write_card
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.probes import (
    Probes,
    check_prompts,
    decoding_of,
    is_multiple,
    probe_examples,
    probe_prompts,
)
from higgs_audio_trainer.training.progress import TrainingBar
from higgs_audio_trainer.training.resumption import check_resumable, samples_of, settings_of
from higgs_audio_trainer.training.run_facts import run_facts
from higgs_audio_trainer.training.saved_weights import complete_adapter, complete_whole, finish_whole
from higgs_audio_trainer.training.shared_files import check_shared_files
from higgs_audio_trainer.training.signals import StopReason, StopSignals, answer_to, exit_status, under_torchrun
from higgs_audio_trainer.training.stopping import Stopping
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from higgs_audio_trainer.training_data import TrainingData, prepare_data
from higgs_audio_trainer.training_log import Console, NamedSink, TrainingLog, codec_name, has_log, open_log, sink_errors
from higgs_audio_trainer.voice.scores import check_scorers
from sinks import specification
from sinks.terminal.escape import printable_lines
from sinks.terminal.fold import fitted
from sinks.terminal.phase_lines import PhaseLines
from sinks.terminal.screen import Screen

_LAST_EVENTS_S = 3.0  # for `run_end` and the sinks, when the launcher is about to kill the process


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        run_id: Identifier of the run.
        step: Optimizer steps done.
        attempt: Number of the attempt, 0 at first.
        stopped_by: Signal or finding that stopped the run after a checkpoint. None for a completed run.
        failed_by: With `--diagnose fail`, the finding that ended the run or was made at its last step; on rank 0.
        milestones: First, last and best figures of the run; None on other ranks than rank 0.

    Example:
        >>> RunResult("adebb10e1cfc", step=60, attempt=0).stopped_by is None  # the run completed
        True
    """

    run_id: str
    step: int
    attempt: int
    stopped_by: StopReason | None = None
    failed_by: Diagnosis | None = None
    milestones: Milestones | None = None


class InterruptedRun(KeyboardInterrupt):
    """A second Ctrl-C ended a run at once, without a checkpoint of its last steps.

    Attributes:
        result: Outcome of the run until then.
    """

    def __init__(self, result: RunResult) -> None:
        super().__init__()
        self.result = result


def run_training(settings: TrainSettings, *, more_sinks: Sequence[NamedSink] = (), say: Say | None = None) -> RunResult:
    """Train LoRA adapters or a whole model, as `higgs-audio-trainer train` does.

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
    with sink_errors():  # refuses a wrong name before anything is loaded
        specification.load(settings.sinks)
    processors = load_processors(settings.processors)
    settings = with_lora_config(settings)
    check_field(settings.keep_best)
    check_prompts(settings)
    if settings.diagnose == "fail" and not has_log(settings, more_sinks):
        raise UserError(
            "--diagnose fail: expected a sink, since checks read the log, got --sinks none. Add a sink: --sinks jsonl"
        )
    screen = Screen(sys.stdout, sys.stderr)
    redact = Redactor(settings.as_mapping(), os.environ)
    console = Console(
        screen,
        say or (lambda text: screen.show(fitted(printable_lines(text), screen.out))),
        lambda text: screen.note(redact(text)),
    )
    lines = PhaseLines(screen if os.environ.get("RANK", "0") == "0" else Screen(None, None))
    try:
        with phases.shown_by(lambda: lines):
            return _run(settings, more_sinks, processors, console)
    except Exception as error:
        redact.hide_in(error)
        raise
    finally:
        screen.close()


def _run(
    settings: TrainSettings, more_sinks: Sequence[NamedSink], processors: Sequence[NamedProcessor], console: Console
) -> RunResult:
    arguments = training_arguments(settings)
    attempt = on_rank_0(arguments, lambda: plan_attempt(settings.output_dir, settings.resume, restarts=_restarts()))
    on_every_rank(arguments, lambda: check_machine(settings))
    on_every_rank(arguments, lambda: check_scorers(settings.say_asr, settings.say_speaker))
    checkpoint = on_every_rank(arguments, lambda: open_checkpoint(settings.base_ckpt))
    settings = settings.with_text_loss(checkpoint.family.text_loss_weight)
    checkpoint = checkpoint.with_text_loss(settings.text_weight)
    settings.codebooks(checkpoint.ids.num_codebooks)  # refuses codebooks that the model lacks
    check_layers(settings, checkpoint.config.get_text_config().num_hidden_layers)
    on_every_rank(arguments, lambda: check_method(settings, checkpoint))
    fixed = on_rank_0(arguments, lambda: _fixed_settings(settings, arguments, attempt, console.say))
    # Ranks share the work, and wait in no collective.
    data = prepare_data(settings, checkpoint, arguments, attempt, console)
    on_every_rank(arguments, lambda: check_shared_files(attempt, data.datasets, arguments))
    fixed |= samples_of(data.train, data.evaluation)
    set_seed(arguments.seed)
    model = on_every_rank(arguments, lambda: load_model(settings, checkpoint))
    trainer: HiggsAudioTrainer  # resolves a share of all steps; built below, since it takes the recorder
    probes = None
    if has_log(settings, more_sinks):
        probes = _probes(settings, arguments, checkpoint, data, lambda: trainer.state.max_steps)
    log = on_every_rank(
        arguments,
        lambda: open_log(
            settings,
            arguments,
            checkpoint,
            attempt,
            console,
            more_sinks=more_sinks,
            processors=processors,
            speaks=probes is not None and bool(probes.prompts),
            interval=lambda: trainer.state.logging_steps,
        ),
    )
    bar = TrainingBar(console.screen.status_stream(), lambda: log.keeper.milestones)
    with ExitStack() as cleanup:
        cleanup.callback(log.close)
        cleanup.callback(bar.close)
        stop = _stop_signals(arguments, log, console.screen)
        stopping = Stopping(lambda: stop.received or log.stop_reason)
        claims: list[Claim] = []  # of rank 0
        facts: list[RunFacts] = []  # one, from the start on

        def start() -> None:
            changes = changes_of(attempt, fixed, trainer)
            if arguments.process_index == 0:
                for note in notes_in_force(attempt, changes, trainer):
                    console.say(note)
            facts.append(
                run_facts(settings, trainer, checkpoint, attempt, changes, len(data.train), len(data.evaluation or ()))
            )
            log.keeper.restore(attempt.checkpoint)
            log.recorder.start(facts[0], current_step=lambda: trainer.state.global_step, checkpoint=attempt.checkpoint)
            if arguments.process_index == 0 and attempt.checkpoint is None:  # once a run, however often it is resumed
                log.emit(data.audit, level=level_of(data.audit))
            for claimed in claims:
                claimed.is_logged = bool(log.sinks)

        def save_beside(folder: Path) -> None:
            finish(folder)
            write_card(folder, trained_card(trained_adapter(trainer, facts[0], data.audit, log.keeper.milestones)))

        def first_step() -> None:
            for claimed in claims:
                claimed.train()

        complete, finish = _savers(settings, checkpoint)
        beginning = Beginning(start, first_step)
        trainer = _build_trainer(
            settings,
            arguments,
            checkpoint,
            data,
            model=model,
            recorder=log.recorder,
            stopping=stopping,
            begin=beginning,
            callbacks=[bar, beginning, log.keeper],
            checkpoint_settings=fixed,
            probes=probes,
            best=_best(settings, attempt, probes),
            save_beside=save_beside,
            complete=complete,
        )
        on_rank_0(arguments, lambda: claims.append(cleanup.enter_context(claim(settings.output_dir, attempt))))
        cleanup.enter_context(stop)
        _train(trainer, attempt, log, stopping)
    return _outcome(trainer, attempt, log, stopping.stopped_by or log.stop_reason)


def _outcome(
    trainer: HiggsAudioTrainer, attempt: Attempt, log: TrainingLog, stopped_by: StopReason | None
) -> RunResult:
    milestones = log.keeper.milestones if trainer.is_world_process_zero() else None
    step = trainer.state.global_step
    return RunResult(attempt.run_id, step, attempt.number, stopped_by, log.failed_by, milestones)


def _stop_signals(arguments: TrainingArguments, log: TrainingLog, screen: Screen) -> StopSignals:
    options: dict[str, Any] = {**under_torchrun(os.environ)}
    if arguments.process_index == 0:  # the first rank answers for all
        options["answer"] = partial(_answer, screen)
    return StopSignals(partial(_give_up, log.recorder, screen), **options)


def _answer(screen: Screen, received: Signals) -> None:
    screen.note(answer_to(received, phases.current()))


def _savers(
    settings: TrainSettings, checkpoint: BaseCheckpoint
) -> tuple[Callable[[Path], None], Callable[[Path], None]]:
    """Return what is done in each folder with new weights, and in the folder of a finished adapter or model."""
    codec = settings.audio_tokenizer
    if settings.full_finetune:
        return partial(complete_whole, checkpoint=checkpoint, codec=codec), partial(finish_whole, checkpoint=checkpoint)
    mapping = checkpoint.family.adapter_mapping()
    return partial(complete_adapter, mapping=mapping), partial(save_processor, checkpoint, codec=codec)


def _best(settings: TrainSettings, attempt: Attempt, probes: Probes | None) -> BestAdapter | None:
    """Return the keeper of the best adapter. None for a run without the events that decide.

    Raises:
        UserError: The run does not know the field that `--keep_best` names.
    """
    if settings.keep_best == NONE:
        return None
    best = BestAdapter(Path(settings.output_dir), settings.keep_best, done=attempt.resumed_from_step or 0)
    needed = []
    if best.kind is GenerationSample and (probes is None or not probes.prompts):
        needed.append("a run that speaks: --eval_manifest or --say_steps, and a sink")
    if settings.keep_best in ("cer", "wer") and settings.say_asr is None:
        needed.append("--say_asr")
    if settings.keep_best == "speaker_similarity" and settings.say_speaker is None:
        needed.append("--say_speaker")
    if settings.keep_best == "agreement" and settings.say_prompts is not None:
        needed.append("probes with recordings, in place of --say_prompts")
    if probes is None and settings.keep_best not in LOSSES:
        needed.append("a sink")
    if needed:
        raise UserError(f"--keep_best {settings.keep_best}: expected {', and '.join(needed)}")
    return best


def _probes(
    settings: TrainSettings,
    arguments: TrainingArguments,
    checkpoint: BaseCheckpoint,
    data: TrainingData,
    total_steps: Callable[[], int],
) -> Probes:
    """Return the probes, the same on every rank."""
    source = data.evaluation or data.train
    ids, device = checkpoint.ids, str(arguments.device)
    codec = partial(Codec, codec_name(settings), device=device, num_codebooks=ids.num_codebooks)
    prompts = on_rank_0(arguments, lambda: probe_prompts(settings, checkpoint, source, codec))
    return Probes(
        prompts,
        decoding_of(prompts, settings.say_temperature, settings.seed),
        checkpoint,
        None if settings.say_steps is None else partial(is_multiple, settings.say_steps, total_steps),
        probe_examples(source, ids, settings.log_probes),
    )


def _fixed_settings(
    settings: TrainSettings, arguments: TrainingArguments, attempt: Attempt, say: Say
) -> dict[str, Any]:
    """Check the resumed checkpoint, and return the settings that no later start of the run may change."""
    fixed = settings_of(settings, arguments, base=fingerprint_of(settings.base_ckpt))
    for note in (*attempt.notes, *notes_on(arguments, settings)):
        say(note)
    if attempt.checkpoint is not None:
        check_resumable(attempt.checkpoint, fixed, arguments)
    return fixed


def _give_up(recorder: Recorder, screen: Screen, received: Signals) -> None:
    """Write the last events and end the process, before the launcher kills the process."""

    def end_log() -> None:
        recorder.end(received.name)
        recorder.close()
        screen.close()

    # A hanging sink blocks every thread that emits, so a separate thread emits the last events.
    ending = threading.Thread(target=end_log, daemon=True)
    ending.start()
    ending.join(_LAST_EVENTS_S)
    os._exit(exit_status(received))


def _train(trainer: HiggsAudioTrainer, attempt: Attempt, log: TrainingLog, stopping: Stopping) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(attempt.checkpoint) if attempt.checkpoint else None)
        if stopping.stopped_by is None:
            trainer.save_model()
        log.end_speech(wait=stopping.stopped_by is None)
    except BaseException as error:
        with suppress(LoggingError):  # the error that ended the training is reported
            log.end_speech(wait=False)
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            log.recorder.end(reason, error.ranks if isinstance(error, LostRankError) else ())
        log.close()  # before the output directory is given back, which a failed start leaves as it was
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRun(_outcome(trainer, attempt, log, Signals.SIGINT)) from error
        raise
    log.recorder.end("completed" if stopping.stopped_by is None else stopping.stopped_by.name)


def _build_trainer(
    settings: TrainSettings, arguments: TrainingArguments, checkpoint: BaseCheckpoint, data: TrainingData, **parts: Any
) -> HiggsAudioTrainer:
    """Return the trainer. Further arguments of it are the parts."""
    try:
        trainer = HiggsAudioTrainer(
            vocabulary=checkpoint.vocabulary,
            text_loss_weight=settings.text_weight,
            max_batch_seconds=settings.max_batch_seconds,
            args=arguments,
            data_collator=Collator(checkpoint.ids),
            train_dataset=SpeechDataset(data.train, checkpoint.ids),
            eval_dataset=SpeechDataset(data.evaluation, checkpoint.ids) if data.evaluation else None,
            **parts,
        )
    except (ValueError, ImportError, RuntimeError, OSError) as error:  # a refused argument, or a missing tracker
        raise UserError(f"transformers.Trainer: {' '.join(str(error).split())}") from error
    trainer.remove_callback(PrinterCallback)  # prints dictionaries between the lines of the console sink
    return trainer


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
