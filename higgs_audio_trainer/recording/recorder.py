"""What a trainer is given to log with, and when it is to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from higgs_audio_trainer.data.batch import Vocabulary
from higgs_audio_trainer.events import Checkpoint
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Emit
from higgs_audio_trainer.recording.audio_previews import AudioPreviews
from higgs_audio_trainer.recording.live_checks import LiveChecks


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the trainer is given to log with. Decided once, at wiring.

    Attributes:
        emit: takes events.
        is_due: whether an optimizer step, counted from 1, is logged; the same on every rank.
        evaluations: whether evaluations are logged; the same on every rank.
        vocabulary: token ids.
        shown: what samples to show; None on a rank that writes nothing.
        strict: let an error in logging end the run.
        counts: count tokens for the checks; the same on every rank.
        watch: checks what is emitted; None on a rank that does not.
        ears: makes predictions audible; None on a rank that does not.
    """

    emit: Emit
    is_due: Callable[[int], bool]
    evaluations: bool
    vocabulary: Vocabulary
    shown: WindowSettings | None
    strict: bool = False
    counts: bool = False
    watch: LiveChecks | None = None
    ears: AudioPreviews | None = None


def due_every(log_steps: int) -> Callable[[int], bool]:
    """Make the rule for due steps: step 1 and every multiple of `log_steps`."""
    return lambda step: step == 1 or step % log_steps == 0


def never_due(_step: int) -> bool:
    """Answer that no step is due."""
    return False


class ReportCheckpoints(TrainerCallback):
    """Emits an event for each checkpoint that was saved."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Emit it."""
        self._emit(Checkpoint(step=state.global_step, path=f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))
