"""Progress bars, on stderr and only where it is a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from higgs_audio_trainer.data.manifest import Clip

_HIDE_UNLESS_TERMINAL = None  # tqdm's word for it


def encoding_bar(clips: Sequence[Clip]) -> Iterable[Clip]:
    """Show the encoding of clips."""
    return tqdm(clips, desc="encoding", unit="clip", disable=_HIDE_UNLESS_TERMINAL, leave=False)


class TrainingBar(TrainerCallback):
    """Shows the optimizer steps."""

    def __init__(self) -> None:
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
