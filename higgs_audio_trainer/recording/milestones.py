"""First, last and best figures of a training, for the end of a run and for the model card."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import msgspec
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from higgs_audio_trainer.events import EvalResult, TrainStep
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.pipeline.emit import Emit

_STATE_FILE = "milestones.msgpack"  # in each checkpoint


@dataclass(frozen=True, slots=True)
class Milestones:
    """First and last logged step; first, last and best evaluation. None where nothing was logged.

    Attributes:
        first_step: First logged step of the run.
        last_step: Last logged step of the run.
        first_evaluation: First evaluation of the run.
        last_evaluation: Last evaluation of the run.
        best_evaluation: Evaluation with the lowest loss.
    """

    first_step: TrainStep | None = None
    last_step: TrainStep | None = None
    first_evaluation: EvalResult | None = None
    last_evaluation: EvalResult | None = None
    best_evaluation: EvalResult | None = None

    def after(self, logged: LoggedStep) -> Milestones:
        """Return the milestones after a further logged step or evaluation."""
        after = self
        if logged.train is not None:
            after = replace(after, first_step=self.first_step or logged.train, last_step=logged.train)
        if (result := logged.evaluation) is not None:
            best = self.best_evaluation
            if math.isfinite(result.loss) and (best is None or result.loss < best.loss):
                best = result
            first = self.first_evaluation or result
            after = replace(after, first_evaluation=first, last_evaluation=result, best_evaluation=best)
        return after


def mean_accuracy(event: TrainStep | EvalResult) -> float | None:
    """Return the mean accuracy over the codebooks with training targets. None without such a codebook."""
    known = [accuracy for accuracy in event.audio_accuracy_per_codebook if accuracy is not None]
    return fmean(known) if known else None


class MilestoneKeeper(TrainerCallback):
    """Keeps the milestones of a run, and saves them in each checkpoint, so that a resumed run has all of them.

    Args:
        emit: Counts files that cannot be read or written as failures of logging.

    Attributes:
        milestones: Milestones until now.
    """

    def __init__(self, emit: Emit) -> None:
        self.milestones = Milestones()
        self._emit = emit

    def take(self, logged: LoggedStep) -> None:
        """Take in a logged step or an evaluation."""
        self.milestones = self.milestones.after(logged)

    def restore(self, checkpoint: Path | None) -> None:
        """Continue with the milestones in a checkpoint. None, or a checkpoint without milestones, changes nothing."""
        if checkpoint is None or not (checkpoint / _STATE_FILE).is_file():
            return
        try:
            self.milestones = msgspec.msgpack.decode((checkpoint / _STATE_FILE).read_bytes(), type=Milestones)
        except (OSError, msgspec.MsgspecError) as error:
            self._emit.fail("milestones", error)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Save the milestones in the checkpoint."""
        if not state.is_world_process_zero or self.milestones == Milestones():
            return
        path = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / _STATE_FILE
        try:
            path.write_bytes(msgspec.msgpack.encode(self.milestones))
        except OSError as error:  # a run can be resumed from the checkpoint without this file
            self._emit.fail("milestones", error)
