"""Which attempt's events are those of the run: a step that was made several times counts once."""

from __future__ import annotations

from collections.abc import Collection

from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import Record

_NONE = -1  # the step of a checkpoint that there was not


class LoggedAttempt:
    """What is known of an attempt, over all its ranks. Steps between what it resumed and what it reached, it made.

    Args:
        number: 0 at first, one more at each resume or elastic restart.

    Attributes:
        resumed: step of the checkpoint that it resumed from, -1 if there was none; None until a record says so.
        reached: the highest step that is known of it, -1 before the first.
        completed: the highest step that it is known to have saved or left behind: a resume from there may be its own.
        evaluated: the step `resumed`, if it evaluated there, where a stopped attempt may have left it out; else None.
        has_begun: there is a record.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.resumed: int | None = None
        self.reached = self.completed = _NONE
        self.evaluated: int | None = None
        self.has_begun = False

    @property
    def start(self) -> int:
        """The step that it began at: `resumed`, and -1 while that is not known."""
        return _NONE if self.resumed is None else self.resumed

    def reach(self, record: Record) -> None:
        """Take note of how far a record says it came."""
        step = int_field(record, "step")
        if step is not None:
            self.reached = max(self.reached, step)
            self.completed = max(self.completed, step if record["event"] == "checkpoint" else step - 1)

    def learn(self, record: Record) -> None:
        """Take note of what a record says of it."""
        self.has_begun = True
        step = int_field(record, "step")
        if record["event"] == "run_start":
            if self.resumed is None:
                resumed = int_field(record, "resumed_from_step")
                self.resumed = _NONE if resumed is None else resumed
        elif step is not None:
            if self.resumed is None:
                self.resumed = step - 1  # its `run_start` is lost: it begins where it is first seen
            self.reach(record)
            if step == self.resumed and _is_of_evaluation(record):
                self.evaluated = step

    def made(self, step: int) -> bool:
        """Tell whether it made a step anew."""
        return self.resumed is not None and self.resumed < step <= self.reached

    def saved(self, step: int) -> bool:
        """Tell whether a checkpoint of a step is this attempt's, as far as is known."""
        return self.start < step <= self.completed


def shows(attempt: LoggedAttempt, record: Record, place: int, attempts: Collection[LoggedAttempt]) -> bool:
    """Tell whether an attempt's record is one of the run's.

    Args:
        attempt: the attempt.
        record: one of its records.
        place: step that a record without one belongs to.
        attempts: all attempts, this one too.
    """
    later = [other for other in attempts if other.number > attempt.number and other.has_begun]
    if record["event"] in ("run_start", "run_end"):
        return not later
    step = int_field(record, "step")
    if step is None:
        step = max(place, attempt.start + 1)
    evaluates = _is_of_evaluation(record)
    return not _is_abandoned(attempt, step, attempts) and not any(
        (other.made(step) or (evaluates and other.evaluated == step)) and not _is_abandoned(other, step, attempts)
        for other in later
    )


def _is_abandoned(attempt: LoggedAttempt, step: int, attempts: Collection[LoggedAttempt]) -> bool:
    """Tell whether an attempt's way of making a step led nowhere.

    A later attempt went on from a checkpoint of that step or a later one, which neither this attempt nor one between
    them had come to save: an earlier one had. Then the step is that one's.
    """
    if not any(other.number < attempt.number and other.made(step) for other in attempts):
        return False
    return any(
        later.number > attempt.number
        and later.start >= step
        and not any(attempt.number <= other.number < later.number and other.saved(later.start) for other in attempts)
        for later in attempts
    )


def _is_of_evaluation(record: Record) -> bool:
    return record["event"] == "eval_result" or record.get("split") == "eval"
