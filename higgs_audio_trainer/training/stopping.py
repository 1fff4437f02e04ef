"""Stops a training with a checkpoint, on every rank at the same step boundary, whichever rank got the signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from higgs_audio_trainer.training.signals import STOP_SIGNALS, Diagnosed, StopReason

_EVAL_LOSS = "eval_loss"
_REASONS: tuple[StopReason, ...] = (*STOP_SIGNALS, *Diagnosed)


class EvaluationStoppedError(Exception):
    """An evaluation was abandoned because the run stops. Figures over a part of the data would be wrong."""


class Stopping(TrainerCallback):
    """Ends the training at the step boundary after a stop signal, or after a finding with `--diagnose fail`.

    Each rank votes at the beginning of a step. The votes travel with the target counts of the step, which are summed
    over the ranks in any case. A vote therefore costs neither a collective nor a wait. At the end of the step every
    rank knows the result.

    Args:
        received: Returns the reason for this process to stop, or None.

    Attributes:
        stopped_by: Reason of the stop. None during the training and after a training that completed.
    """

    def __init__(self, received: Callable[[], StopReason | None] = lambda: None) -> None:
        self.stopped_by: StopReason | None = None
        self._received = received
        self._votes: Tensor | None = None  # int64 [len(_REASONS)] on the host: number of ranks by reason
        self._copied: torch.cuda.Event | None = None

    def is_asked(self) -> bool:
        """Return True if this process has a reason to stop."""
        return self._received() is not None

    def ballot(self) -> Tensor:
        """Return the vote of this rank: int64 [len(_REASONS)], one-hot or zeros."""
        received = self._received()
        return torch.tensor([int(reason is received) for reason in _REASONS])

    def count(self, votes: Tensor) -> None:
        """Take the votes, summed over the ranks. Does not wait for the device."""
        if votes.device.type == "cuda":
            self._votes = torch.empty(votes.shape, dtype=votes.dtype, pin_memory=True)
            self._votes.copy_(votes, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._votes = votes.cpu()

    def voted(self) -> StopReason | None:
        """Return the reason that some rank voted for, or None; the same on every rank."""
        if self._votes is None:
            return None
        if self._copied is not None:
            self._copied.synchronize()  # the next step is under way, so the copy has nearly always ended
        return next((reason for reason, votes in zip(_REASONS, self._votes.tolist(), strict=True) if votes), None)

    def _agreed(self, args: TrainingArguments) -> StopReason | None:
        return self._received() if args.world_size == 1 else self.voted()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Schedule the evaluation that an earlier attempt, stopped at this step, did not finish."""
        step = state.global_step
        ends_interval = step % state.eval_steps == 0 or step >= state.max_steps
        scheduled = args.eval_strategy == IntervalStrategy.STEPS and ends_interval
        done = any(entry["step"] == step and _EVAL_LOSS in entry for entry in state.log_history)
        if step and scheduled and not done and args.eval_delay <= step:
            args.eval_on_start = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop if a rank voted for a stop. A run at its last step without an evaluation ends as usual."""
        asked = self._agreed(args)
        if asked is not None and (state.global_step < state.max_steps or control.should_evaluate):
            self.stop(asked, control)

    def stop(self, asked: StopReason, control: TrainerControl) -> None:
        """Request a checkpoint and the end of the training. A scheduled evaluation is left to the next attempt."""
        self.stopped_by = asked
        control.should_evaluate = False
        control.should_save = True
        control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep a stopped run from evaluating and saving at the end of an epoch."""
        if self.stopped_by is not None:
            control.should_evaluate = control.should_save = False

    def check_evaluation(self, args: TrainingArguments, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Abandon an evaluation in progress after a stop signal, on every rank at the same batch.

        Raises:
            EvaluationStoppedError: A rank received a stop signal.
        """
        if args.world_size > 1:
            self.count(sum_over_ranks(self.ballot().to(args.device)))
        asked = self._agreed(args)
        if asked is not None:
            self.stopped_by = asked
            raise EvaluationStoppedError
