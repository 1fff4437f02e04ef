"""Selection of the attempt whose events count for a step made by several attempts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import Record

_NONE = -1  # step of a missing checkpoint


class LoggedAttempt:
    """An attempt, as known from the events of all ranks. The attempt made every step from `start + 1` to `reached`.

    Args:
        number: Number of the attempt: 0 at first, +1 at each resume or elastic restart.

    Attributes:
        resumed: Step of the resumed checkpoint, -1 without a checkpoint, None before the first record.
        reached: Highest known step of the attempt, -1 before the first step.
        completed: Highest step known to be saved or passed. A later attempt resumed from this step or a lower step may
            use a checkpoint of this attempt.
        evaluated: The step `resumed`, if the attempt repeated the evaluation at that step because the stopped attempt
            may have skipped the evaluation; else None.
        speaks_at_evaluations: Whether the attempt speaks the probes at evaluations, as far as its settings tell.
        has_begun: Whether a record of the attempt was read.

    Example:
        >>> attempt = LoggedAttempt(1)
        >>> attempt.update({"event": "run_start", "resumed_from_step": 100})
        >>> attempt.update({"event": "train_step", "step": 120})
        >>> attempt.start, attempt.reached, attempt.made_step(110), attempt.made_step(100)
        (100, 120, True, False)
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.resumed: int | None = None
        self.reached = self.completed = _NONE
        self.evaluated: int | None = None
        self.speaks_at_evaluations = True
        self.has_begun = False

    @property
    def start(self) -> int:
        """Step of the resumed checkpoint, -1 if unknown."""
        return _NONE if self.resumed is None else self.resumed

    def reach(self, record: Record) -> None:
        """Update the highest steps with the step of a record."""
        step = int_field(record, "step")
        if step is not None:
            self.reached = max(self.reached, step)
            self.completed = max(self.completed, step if record["event"] == "checkpoint" else step - 1)

    def update(self, record: Record) -> None:
        """Update the attempt with a record."""
        self.has_begun = True
        step = int_field(record, "step")
        if record["event"] == "run_start":
            config = record.get("config")
            self.speaks_at_evaluations = not isinstance(config, Mapping) or config.get("say_steps") is None
            if self.resumed is None:
                resumed = int_field(record, "resumed_from_step")
                self.resumed = _NONE if resumed is None else resumed
        elif step is not None:
            if self.resumed is None:
                self.resumed = step - 1  # `run_start` is lost, so the attempt begins at its first known step
            self.reach(record)
            if step == self.resumed and _is_of_evaluation(record):
                self.evaluated = step

    def made_step(self, step: int) -> bool:
        """Return True if the attempt trained a step."""
        return self.resumed is not None and self.resumed < step <= self.reached

    def saved_step(self, step: int) -> bool:
        """Return True if a checkpoint of a step can be a checkpoint of this attempt."""
        return self.start < step <= self.completed


def is_current(attempt: LoggedAttempt, record: Record, place: int, attempts: Collection[LoggedAttempt]) -> bool:
    """Return True if no later attempt replaced the record of an attempt.

    Args:
        attempt: Attempt that wrote the record.
        record: Record of the attempt.
        place: Step for a record without a step.
        attempts: All attempts of the run, including `attempt`.

    Example:
        >>> first, second = LoggedAttempt(0), LoggedAttempt(1)
        >>> for attempt, resumed, last in ((first, None, 30), (second, 20, 40)):
        ...     attempt.update({"event": "run_start", "resumed_from_step": resumed})
        ...     attempt.update({"event": "train_step", "step": last})
        >>> [is_current(first, {"event": "train_step", "step": step}, step, [first, second]) for step in (20, 30)]
        [True, False]
    """
    later = [other for other in attempts if other.number > attempt.number and other.has_begun]
    if record["event"] in ("run_start", "run_end"):
        return not later
    step = int_field(record, "step")
    if step is None:
        step = max(place, attempt.start + 1)
    # A repeated evaluation speaks the probes again, and later in the file, which a reader of a stream cannot foresee.
    speaks, evaluates = record["event"] == "generation_sample", _is_of_evaluation(record)
    return not _is_abandoned(attempt, step, attempts) and not any(
        (other.made_step(step) or (other.evaluated == step and (evaluates or (speaks and other.speaks_at_evaluations))))
        and not _is_abandoned(other, step, attempts)
        for other in later
    )


def _is_abandoned(attempt: LoggedAttempt, step: int, attempts: Collection[LoggedAttempt]) -> bool:
    """Return True if a later attempt resumed from before this step, so this attempt's version was discarded.

    A later attempt resumed from a checkpoint at this step or a later step. Neither this attempt nor an attempt between
    the two reached the checkpoint, so an earlier attempt saved the checkpoint, and the step belongs to the earlier
    attempt.
    """
    if not any(other.number < attempt.number and other.made_step(step) for other in attempts):
        return False
    return any(
        later.number > attempt.number
        and later.start >= step
        and not any(
            attempt.number <= other.number < later.number and other.saved_step(later.start) for other in attempts
        )
        for later in attempts
    )


def _is_of_evaluation(record: Record) -> bool:
    return record["event"] == "eval_result" or record.get("split") == "eval"
