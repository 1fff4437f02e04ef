"""The first and the last line of a run's log, and the end of its sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from higgs_audio_trainer.events import RunEnd, RunStart
from higgs_audio_trainer.pipeline.emit import Emit, Sink
from higgs_audio_trainer.recording.live_checks import LiveChecks


class RunLog:
    """Begins a log and ends it, once, whichever thread is the first to.

    Args:
        emit: takes events.
        built: the sinks behind it, closed at the end.
        watch: checks the record; None if nobody does.
    """

    def __init__(self, emit: Emit, built: Sequence[tuple[str, Sink]], watch: LiveChecks | None = None) -> None:
        self._emit = emit
        self._watch = watch
        self._built = built
        self._progress: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        self._ending = threading.Lock()
        self._is_open = False

    def start(self, event: RunStart, progress: Callable[[], tuple[int, float]], checkpoint: Path | None = None) -> None:
        """Write the first line.

        Args:
            event: the line.
            progress: knows, at the end, the last step and the seconds that extraction took.
            checkpoint: what the run is resumed from.
        """
        if self._watch is not None:
            self._watch.start(event, checkpoint)
        self._progress = progress
        self._is_open = True
        self._emit(event)

    def end(self, reason: str) -> None:
        """Write the last line; only the first call does."""
        with self._ending:
            if not self._is_open:
                return
            self._is_open = False
            emit = self._emit
            step, seconds = self._progress()
            emit.recover()
            emit(
                RunEnd(
                    reason=reason,
                    step=step,
                    events_written=emit.written,
                    events_lost=emit.lost,
                    values_replaced=emit.replaced,
                    logging_ms_total=(emit.seconds + seconds) * 1000,
                    diagnoses=self._watch.counted if self._watch is not None else {},
                )
            )

    def close(self) -> None:
        """Close the sinks."""
        for name, sink in self._built:
            try:
                getattr(sink, "close", lambda: None)()
            except Exception as error:  # noqa: BLE001 - whatever it is, the adapter is on disk and the run has ended
                self._emit.fail(name, error)
