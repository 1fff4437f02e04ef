"""The checks of a training in progress. Their state is saved in each checkpoint, so that a resume goes on with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from higgs_audio_trainer.diagnoses.diagnoser import LEVELS, Diagnoser
from higgs_audio_trainer.events import Diagnosis, RunStart
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.pipeline.emit import Emit

_STATE_FILE = "diagnoses.msgpack"  # in each checkpoint


class LiveChecks(TrainerCallback):
    """Checks each logged step and emits the findings.

    Args:
        emit: Receives the findings.
        fails: Whether a finding of severity error ends the run.

    Attributes:
        failed_by: First finding that ends the run; None without one.
    """

    def __init__(self, emit: Emit, *, fails: bool) -> None:
        self.failed_by: Diagnosis | None = None
        self._emit = emit
        self._fails = fails
        self._diagnoser = Diagnoser()

    @property
    def counted(self) -> dict[str, int]:
        """Number of logged steps with each warning and error, by code."""
        return self._diagnoser.counted

    def start(self, start: RunStart, checkpoint: Path | None) -> None:
        """Begin a run, with the state of its checkpoint if there is one. A damaged state is counted as a failure.

        Args:
            start: First event of the log.
            checkpoint: Checkpoint that the run is resumed from.
        """
        if checkpoint is not None and (checkpoint / _STATE_FILE).is_file():
            try:
                self._diagnoser.restore((checkpoint / _STATE_FILE).read_bytes())
            except (OSError, msgspec.MsgspecError) as error:
                self._emit.fail("diagnoses", error)
        self._diagnoser.start(start)

    def check(self, logged: LoggedStep) -> None:
        """Check one logged step or evaluation."""
        for found in self._diagnoser.check(logged):
            self._emit(found, level=LEVELS[found.severity])
            if self._fails and found.severity == "error" and self.failed_by is None:
                self.failed_by = found

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Save the state of the checks in the checkpoint."""
        path = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / _STATE_FILE
        try:
            path.write_bytes(self._diagnoser.save())
        except OSError as error:  # a run can be resumed from the checkpoint without this file
            self._emit.fail("diagnoses", error)
