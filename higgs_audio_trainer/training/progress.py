"""Progress bar of a training on stderr. Shown on terminals only."""

from __future__ import annotations

from typing import Any, Protocol

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_HIDE_UNLESS_TERMINAL = None  # the value of tqdm's `disable` for this


class TextFile(Protocol):
    """A file that a bar is drawn on. The bar is shown if `isatty()` returns True."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Flush the text."""


class TrainingBar(TrainerCallback):
    """Shows the optimizer steps.

    Args:
        file: File to draw on. None for stderr, where a reader that stops reading makes the training wait.
    """

    def __init__(self, file: TextFile | None = None) -> None:
        self._file = file
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
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
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
