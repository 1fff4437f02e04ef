"""Has the record checked while it is written, and remembers over a resume what was said."""

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
    """Emits what the checks find.

    Args:
        emit: takes events.
        fails: whether an error is to end the run.

    Attributes:
        failed_by: the first error that is to end it.
    """

    def __init__(self, emit: Emit, *, fails: bool) -> None:
        self.failed_by: Diagnosis | None = None
        self._emit = emit
        self._fails = fails
        self._diagnoser = Diagnoser()

    @property
    def counted(self) -> dict[str, int]:
        """At how many due steps each warning and error was found, by code."""
        return self._diagnoser.counted

    def start(self, start: RunStart, checkpoint: Path | None) -> None:
        """Begin, or go on from a checkpoint; one that has no state, or a damaged one, is begun anew from.

        Args:
            start: first line of the log.
            checkpoint: what the run is resumed from.
        """
        if checkpoint is not None and (checkpoint / _STATE_FILE).is_file():
            try:
                self._diagnoser.restore((checkpoint / _STATE_FILE).read_bytes())
            except (OSError, msgspec.MsgspecError) as error:
                self._emit.fail("diagnoses", error)
        self._diagnoser.start(start)

    def check(self, due: LoggedStep) -> None:
        """Check one due step or evaluation."""
        for found in self._diagnoser.check(due):
            self._emit(found, level=LEVELS[found.severity])
            if self._fails and found.severity == "error" and self.failed_by is None:
                self.failed_by = found

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Put what is known into the checkpoint."""
        path = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / _STATE_FILE
        try:
            path.write_bytes(self._diagnoser.save())
        except OSError as error:  # the checkpoint is whole without it
            self._emit.fail("diagnoses", error)
