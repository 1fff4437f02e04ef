"""The beginning of a training: the moment when settings are in force, and the first step."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Beginning(TrainerCallback):
    """Calls back once when a training is ready, and once after its first step.

    Optimizer, schedule, batch size and mixed precision are known when the trainer has built them. With
    `--auto_find_batch_size`, the batch size is known after the first step, and the trainer calls this object then.

    Args:
        ready: Called when all settings are in force.
        first_step: Called after the first step of this process.
    """

    def __init__(self, ready: Callable[[], None], first_step: Callable[[], None]) -> None:
        self._ready, self._first_step = ready, first_step
        self._is_ready = self._has_stepped = False

    def __call__(self) -> None:
        """Call back if this is the first call."""
        if not self._is_ready:
            self._is_ready = True
            self._ready()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the settings as in force, unless the batch size is still searched for."""
        if not args.auto_find_batch_size:
            self()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Note the first step."""
        if not self._has_stepped:
            self._has_stepped = True
            self._first_step()
