"""Progress bars, on stderr and only where it is a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from higgs_audio_trainer.data.manifest import Clip

_HIDE_UNLESS_TERMINAL = None  # tqdm's word for it


def encoding_bar(clips: Sequence[Clip]) -> Iterable[Clip]:
    """Show the encoding of clips."""
    return tqdm(clips, desc="encoding", unit="clip", disable=_HIDE_UNLESS_TERMINAL, leave=False)


class TextFile(Protocol):
    """What a bar draws on; it is shown where `isatty()` says that this is a terminal."""

    def write(self, text: str, /) -> object:
        """Take text."""

    def flush(self) -> object:
        """Have it seen."""


class TrainingBar(TrainerCallback):
    """Shows the optimizer steps.

    Args:
        file: where to draw; None: on stderr, for as long as its reader makes it wait.
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
        """Move it."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take it away."""
        self.close()

    def close(self) -> None:
        """Take the bar away, also after an error; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()
