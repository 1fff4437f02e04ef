"""The beginning of a training: the moment when settings are in force, and the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.training.resumption import changes_since, describe_changes
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer


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


def changes_of(attempt: Attempt, fixed: Mapping[str, Any], trainer: HiggsAudioTrainer) -> dict[str, list[Any]] | None:
    """Return the settings in force that differ from the settings of the checkpoint. None for a new run.

    Args:
        attempt: Attempt of the run.
        fixed: Settings that the checkpoints of the run hold.
        trainer: Trainer that is ready.
    """
    if attempt.checkpoint is None:
        return None
    in_force = {**fixed, "batch_size": trainer.batch_size}
    return changes_since(attempt.checkpoint, in_force, max_steps=trainer.state.max_steps)


def notes_in_force(
    attempt: Attempt, changes: Mapping[str, list[Any]] | None, trainer: HiggsAudioTrainer
) -> Iterator[str]:
    """Yield a line for each setting in force that a reader of the command line would not expect.

    Args:
        attempt: Attempt of the run.
        changes: Changes since the checkpoint, from `changes_of`.
        trainer: Trainer that is ready.
    """
    state, given = trainer.state, trainer.args.per_device_train_batch_size
    if attempt.checkpoint is not None and changes:
        yield describe_changes(attempt.checkpoint, changes)
    if attempt.checkpoint is not None and state.global_step >= state.max_steps:
        yield (
            f"--resume: {attempt.checkpoint.name} has all {state.max_steps} steps, and nothing is left to train. For "
            "more steps, raise --epochs or --max_steps"
        )
    if trainer.lost_best_step is not None:
        yield (
            f"--resume: checkpoint-{trainer.lost_best_step}, the best until now, is not in {trainer.args.output_dir}; "
            "the best checkpoint is searched for among the steps from here on"
        )
    if trainer.batch_size != given and attempt.checkpoint is None:
        yield f"--auto_find_batch_size: training with batch_size {trainer.batch_size}, since {given} needs more memory"
