"""The last lines of a training: what was learned, where the files lie, and commands to go on with."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG, is_finished, latest_checkpoint
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.training.signals import Diagnosed
from sinks import specification
from sinks.terminal.escape import printable_lines
from sinks.terminal.fold import terminal_columns
from sinks.terminal.screen import Screen

if TYPE_CHECKING:
    from higgs_audio_trainer.events import EvalResult, TrainStep
    from higgs_audio_trainer.run import RunResult

_PROGRAM = "higgs-audio-trainer"
#: A word of a line; a quoted word, and a flag with its value, stay together.
_WORD = re.compile(r"""(?:--?\w+ (?=[^-\s]))?(?:'[^']*'|"[^"]*"|[^\s'"])+""")
_MODULE = "-m higgs_audio_trainer"
_INDENT = "  "  # of the rows of a folded line without a label
_RESUME = ("resume", "resume_from_checkpoint")


def epilogue(
    result: RunResult,
    settings: TrainSettings,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    is_saved: bool = True,
) -> list[str]:
    """Return the lines. Each command can be run as printed, in the same folder.

    Args:
        result: Outcome of the run, on rank 0.
        settings: Settings of the run.
        arguments: Command line of `train`.
        environment: Environment variables, which a launcher sets.
        is_saved: False for a run that ended without a checkpoint of its last steps.
    """
    out = Path(settings.output_dir)
    log = _log_folder(settings)
    lines = ["", *_learned(result, is_saved), *_places(result, out, log)]
    adapter = _adapter_of(result, out)
    if adapter is not None:
        words = [_PROGRAM, "say", str(adapter), "Bonjour tout le monde.", "-o", str(out / f"hello-{result.step}.wav")]
        if adapter != out and settings.audio_tokenizer is not None:
            words += ["--audio_tokenizer", settings.audio_tokenizer]  # a finished adapter names its codec
        lines.append(f"Speak:     {shlex.join(words)}")
    if log is not None:
        shown = str(out if log == out / "events" else log)
        lines.append(f"Report:    {shlex.join([_PROGRAM, 'report', shown, '-o', str(out / 'report.html')])}")
        if result.stopped_by is None:
            lines.append(f"Read:      {shlex.join([_PROGRAM, 'show', '--summary', shown])}")
    if result.stopped_by is None:
        lines.append(f"More:      the same command with --resume --max_steps {2 * result.step}")
    else:
        resumes = is_saved or adapter is not None
        lines.append(f"Continue:  {_continuation(result, arguments, environment, resumes=resumes)}")
    return lines


def _learned(result: RunResult, is_saved: bool) -> Iterator[str]:
    reached = f"Trained to step {result.step}."
    if not is_saved:
        reached = f"Ended at step {result.step}, without a checkpoint of this step."
    elif isinstance(result.stopped_by, Signals):
        reached = f"Stopped at step {result.step} by {result.stopped_by.name}."
    elif result.stopped_by is Diagnosed.diagnosis:
        reached = f"Stopped at step {result.step} by a diagnosis."
    found = result.milestones
    assert found is not None, "the milestones of rank 0"
    if found.last_evaluation is not None and found.first_evaluation is not None:
        best = found.best_evaluation
        of_best = "" if best is None else f", best {best.loss:.3f} at step {best.step}"
        yield f"{reached} Evaluation: {_change(found.first_evaluation, found.last_evaluation, of_best)}"
    elif found.last_step is not None and found.first_step is not None:
        yield f"{reached} Training: {_change(found.first_step, found.last_step)}"
    else:
        yield reached


def _change(first: EvalResult | TrainStep, last: EvalResult | TrainStep, of_loss: str = "") -> str:
    """Return loss and accuracy of the first codebook, of two events of the same kind."""
    before, after = (next(iter(event.audio_accuracy_per_codebook), None) for event in (first, last))
    loss = f"loss {first.loss:.3f} to {last.loss:.3f}{of_loss}"
    return loss if before is None or after is None else f"{loss}; codebook 0 {before:.1%} to {after:.1%} correct"


def _places(result: RunResult, out: Path, log: Path | None) -> Iterator[str]:
    adapter = _adapter_of(result, out)
    if adapter is not None:
        kind = "Adapter: " if (adapter / ADAPTER_CONFIG).is_file() else "Model:   "
        yield f"{kind}  {adapter}"
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


def _continuation(result: RunResult, arguments: Sequence[str], environment: Mapping[str, str], *, resumes: bool) -> str:
    """Return the command that continues a stopped run."""
    given = _without(arguments, _RESUME)
    more = ["--resume"] if resumes else []
    if result.failed_by is not None:
        given, more = _without(given, ("diagnose",)), [*more, "--diagnose", "warn"]
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


def fitted(lines: Sequence[str], columns: int) -> list[str]:
    r"""Return lines that fit a terminal. A folded command can still be copied.

    Example:
        >>> fitted(["Speak:  higgs-audio-trainer say out 'a b' -o out.wav"], 46)
        ["Speak:  higgs-audio-trainer say out 'a b' \\", '        -o out.wav']
    """
    return [part for line in lines for part in _folded(line, columns)]


def _folded(line: str, columns: int) -> Iterator[str]:
    if len(line) < columns:
        yield line
        return
    mark = " \\" if _PROGRAM in line or _MODULE in line else ""
    label = match[0] if (match := re.match(r"[A-Z][a-z ]*: +", line)) else ""
    first, *words = _WORD.findall(line.removeprefix(label))
    row = label + first
    for word in words:
        if len(row) + 1 + len(word) + len(mark) < columns:
            row += f" {word}"
        else:
            yield row + mark
            row = " " * (len(label) or len(_INDENT)) + word
    yield row


def show_last_lines(lines: Sequence[str]) -> None:
    """Print lines. A full disk or a stopped pager does not hold up a finished training."""
    screen = Screen(sys.stdout, sys.stderr)
    if (width := terminal_columns(sys.stdout)) is not None:
        lines = fitted(lines, width)
    screen.show(printable_lines("\n".join(lines)))
    screen.close()
