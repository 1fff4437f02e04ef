"""The last lines of `train`: what was learned, where the files lie, and commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG, is_finished, latest_checkpoint
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.training.signals import Diagnosed
from sinks import specification

if TYPE_CHECKING:
    from higgs_audio_trainer.events import EvalResult, TrainStep
    from higgs_audio_trainer.run import RunResult

_PROGRAM = "higgs-audio-trainer"
_RESUME = ("resume", "resume_from_checkpoint")


def epilogue(
    result: RunResult, settings: TrainSettings, arguments: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the lines. Each command can be run as printed, in the same folder.

    Args:
        result: Outcome of the run, on rank 0.
        settings: Settings of the run.
        arguments: Command line of `train`.
        environment: Environment variables, which a launcher sets.
    """
    out = Path(settings.output_dir)
    log = _log_folder(settings)
    lines = ["", *_learned(result), *_places(result, out, log)]
    adapter = _adapter_of(result, out)
    if adapter is not None:
        words = [_PROGRAM, "say", str(adapter), "Bonjour tout le monde.", "-o", str(out / f"hello-{result.step}.wav")]
        if adapter != out and settings.audio_tokenizer is not None:
            words += ["--audio_tokenizer", settings.audio_tokenizer]  # a finished adapter names its codec
        lines.append(f"Speak:     {shlex.join(words)}")
    if log is not None:
        shown = out if log == out / "events" else log
        lines.append(f"Report:    {shlex.join([_PROGRAM, 'report', str(shown), '-o', str(out / 'report.html')])}")
    lines.append(f"Continue:  {_continuation(result, arguments, environment)}")
    return lines


def _learned(result: RunResult) -> Iterator[str]:
    reached = f"Trained to step {result.step}"
    if isinstance(result.stopped_by, Signals):
        reached = f"Stopped at step {result.step} by {result.stopped_by.name}"
    elif result.stopped_by is Diagnosed.diagnosis:
        reached = f"Stopped at step {result.step} by a diagnosis"
    yield f"{reached}."
    found = result.milestones
    assert found is not None, "the milestones of rank 0"
    if found.last_evaluation is not None and found.first_evaluation is not None:
        yield f"Evaluation, first:  {_figures(found.first_evaluation)}"
        if found.best_evaluation is not None:
            yield f"Evaluation, best:   {_figures(found.best_evaluation)}"
        yield f"Evaluation, last:   {_figures(found.last_evaluation)}"
    elif found.last_step is not None and found.first_step is not None:
        yield f"Training, first:  {_figures(found.first_step)}"
        yield f"Training, last:   {_figures(found.last_step)}"


def _figures(event: EvalResult | TrainStep) -> str:
    accuracy = next(iter(event.audio_accuracy_per_codebook), None)
    correct = "" if accuracy is None else f", {accuracy:.1%} of codebook 0 correct"
    return f"step {event.step}, loss {event.loss:.3f}{correct}"


def _places(result: RunResult, out: Path, log: Path | None) -> Iterator[str]:
    adapter = _adapter_of(result, out)
    if adapter is not None:
        yield f"{'Adapter: ' if (adapter / ADAPTER_CONFIG).is_file() else 'Model:   '}  {adapter}"
    if (out / "best").is_dir():
        yield f"Best:      {out / 'best'}"
    if log is not None:
        yield f"Log:       {log / f'rank00000-attempt{result.attempt:03d}.jsonl'}"
    if (out / "audio").is_dir():
        yield f"Audio:     {out / 'audio'}"


def _adapter_of(result: RunResult, out: Path) -> Path | None:
    """Return the folder of the finished adapter or model, or the last checkpoint of a run that was stopped."""
    return out if result.stopped_by is None and is_finished(out) else latest_checkpoint(out)[0]


def _log_folder(settings: TrainSettings) -> Path | None:
    for sink in specification.parse(settings.sinks):
        if sink.name == "jsonl":
            return Path(sink.options.get("dir", Path(settings.output_dir) / "events"))
    return None


def _continuation(result: RunResult, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the command that continues the run, with twice the steps if the run has done all of them."""
    given = _without(arguments, _RESUME)
    more = ["--resume"]
    if result.failed_by is not None:
        given, more = _without(given, ("diagnose",)), [*more, "--diagnose", "warn"]
    if result.stopped_by is None:
        given, more = _without(given, ("max_steps",)), [*more, "--max_steps", str(2 * result.step)]
    command = shlex.join([*redacted(given), *more])
    if "TORCHELASTIC_RUN_ID" in environment and environment.get("GROUP_WORLD_SIZE", "1") == "1":
        processes = environment.get("LOCAL_WORLD_SIZE", "1")
        return f"torchrun --nproc_per_node={processes} -m higgs_audio_trainer {command}"
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        return f"the same launcher with the arguments {command}"
    return f"{_PROGRAM} train {command}"


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command line without some flags and their values.

    Example:
        >>> _without(["--lr", "1", "--resume", "--max-steps=4", "--resume", "out"], ["resume", "max_steps"])
        ['--lr', '1']
    """
    kept: list[str] = []
    is_value = False
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag.startswith("--"):
            is_dropped = flag.removeprefix("--").replace("-", "_") in names
            is_value = is_dropped and not value
            if is_dropped:
                continue
        if is_value:
            is_value = False
            continue
        kept.append(argument)
    return kept
