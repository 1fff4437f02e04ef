"""Progress bar of a training on stderr, with the last figures. Shown on terminals only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from higgs_audio_trainer.events import EvalResult, TrainStep
from higgs_audio_trainer.recording.milestones import Milestones, mean_accuracy

_HIDE_UNLESS_TERMINAL = None  # the value of tqdm's `disable` for this
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class TextFile(Protocol):
    """A file that a bar is drawn on. The bar is shown if `isatty()` returns True."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Flush the text."""


class TrainingBar(TrainerCallback):
    """Shows the optimizer steps with the figures of the last logged step and of the last evaluation.

    The figures are those of the log, so the bar waits for no device.

    Args:
        file: File to draw on. None for stderr, where a reader that stops reading makes the training wait.
        milestones: Returns the figures that were logged until now.
    """

    def __init__(self, file: TextFile | None = None, milestones: Callable[[], Milestones] = Milestones) -> None:
        self._file = file
        self._milestones = milestones
        self._shown: Milestones | None = None
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                unit="step",
                file=self._file,
                disable=_HIDE_UNLESS_TERMINAL,
                leave=False,
                dynamic_ncols=True,
                bar_format=_FORMAT,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        logged = self._milestones()
        if logged is not self._shown:
            self._shown = logged
            self._bar.set_postfix_str(figures(logged), refresh=False)
        self._bar.update(state.global_step - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar. A second call does nothing."""
        if self._bar is not None:
            self._bar.close()


def figures(logged: Milestones) -> str:
    """Return audio loss and accuracy of the last logged step, and the audio loss of the last evaluation.

    Example:
        >>> figures(Milestones())
        ''
    """
    named = (("audio", logged.last_step), ("eval", logged.last_evaluation))
    return ", ".join(f"{name} {_figures(event)}" for name, event in named if event is not None)


def _figures(event: TrainStep | EvalResult) -> str:
    if not event.audio_targets:
        return f"{event.text_loss:.2f}"
    accuracy = mean_accuracy(event)
    return f"{event.audio_loss:.2f}" + ("" if accuracy is None else f" {accuracy:.0%}")
