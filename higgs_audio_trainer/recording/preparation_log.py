"""Log of a preparation: events in a file of their own, so that a preparation on another machine can be watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from higgs_audio_trainer.data.preparation.progress import ProgressLine
from higgs_audio_trainer.events import PrepareProgress
from higgs_audio_trainer.phases import aside
from higgs_audio_trainer.pipeline.emit import Pipeline, Sink
from higgs_audio_trainer.pipeline.failure_message import Say

FILE_NAME = "prepare.jsonl"
_INTERVAL_S = 10.0


class PreparationLog:
    """Writes progress to a file every ten seconds. A short preparation writes no file.

    Args:
        open_sink: Opens the sink of the file. Called at the first event.
        run_id: Identifier of the run.
        attempt: Number of the attempt.
        say: Prints failures.
        clock: Monotonic clock, in seconds.

    Example:
        >>> records = []
        >>> progress = PrepareProgress(
        ...     stage="checking", clips_done=1, clips_total=2, audio_hours_done=0.0, times_real_time=None,
        ...     seconds_left=None, faults=0, workers=1,
        ... )
        >>> log = PreparationLog(lambda: records.append, "r", clock=iter([0.0, 9.0, 10.0, 11.0]).__next__)
        >>> for _ in range(3):
        ...     log(progress)
        >>> log.close()
        >>> [record["event"] for record in records]
        ['prepare_progress']
    """

    def __init__(
        self,
        open_sink: Callable[[], Sink],
        run_id: str,
        attempt: int = 0,
        *,
        say: Say = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_sink, self._run_id, self._attempt, self._say, self._clock = open_sink, run_id, attempt, say, clock
        self._sink: Sink | None = None
        self._emit: Pipeline | None = None
        self._reported_at = clock()

    def __call__(self, progress: PrepareProgress) -> None:
        """Write progress if the last line is old enough."""
        now = self._clock()
        if now - self._reported_at < _INTERVAL_S:
            return
        self._reported_at = now
        if self._emit is None:
            try:
                self._sink = self._open_sink()
            except Exception as error:  # noqa: BLE001 - a log that cannot be opened ends no preparation
                self._say(f"no log of the preparation: {error}")
                self._reported_at = float("inf")
                return
            self._emit = Pipeline([("jsonl", self._sink)], run_id=self._run_id, attempt=self._attempt, say=self._say)
        self._emit(progress)

    def close(self) -> None:
        """Close the file."""
        close = getattr(self._sink, "close", None)
        if close is not None:
            close()


class PreparationReports:
    """Reports of a preparation: messages and progress for a person, and a log.

    Args:
        line: Progress for a person. None for a process that prints nothing.
        print_text: Prints a message.
        log: Log of the progress. None without a log.
    """

    def __init__(self, line: ProgressLine | None, print_text: Say, log: PreparationLog | None = None) -> None:
        self._line, self._print, self._log = line, print_text, log

    def say(self, text: str) -> None:
        """Print a message."""
        if self._line is not None:
            with aside():
                self._print(text)

    def report(self, progress: PrepareProgress) -> None:
        """Show and log progress."""
        if self._line is not None:
            self._line(progress)
        if self._log is not None:
            self._log(progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._log is not None:
            self._log.close()
