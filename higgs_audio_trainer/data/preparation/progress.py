"""Progress of a preparation: in the phase in progress, as lines at intervals where no terminal is, and as events."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TextIO

from higgs_audio_trainer.events import PrepareProgress, Stage
from higgs_audio_trainer.phases import tell

_LINES_S = 30.0  # between two lines
_WINDOW_S = 60.0  # of the measured speed

Report = Callable[[PrepareProgress], None]


def stage_progress(stage: Stage, done: int, total: int) -> PrepareProgress:
    """Return the progress of a stage whose speed is not measured.

    Args:
        stage: Any stage but encoding.
        done: Number of samples that are done.
        total: Number of all samples.

    Example:
        >>> progress_line(stage_progress("writing", 2_000, 8_000))
        'writing: 2,000 of 8,000 samples'
    """
    return PrepareProgress(
        stage=stage,
        clips_done=done,
        clips_total=total,
        audio_hours_done=0.0,
        times_real_time=None,
        seconds_left=None,
        faults=0,
        workers=1,
    )


def progress_line(progress: PrepareProgress) -> str:
    """Return progress as a line for a person.

    Example:
        >>> progress_line(PrepareProgress(
        ...     stage="encoding", clips_done=1_200, clips_total=13_100, audio_hours_done=2.6, times_real_time=35.4,
        ...     seconds_left=723.0, faults=2, workers=2,
        ... ))
        'encoding: 1,200 of 13,100 clips  2.6 h  35x real time  0:12:03 left  2 faults  2 workers'
    """
    if progress.stage != "encoding":
        of_all = "" if progress.stage == "reading" else f" of {progress.clips_total:,}"
        return f"{progress.stage}: {progress.clips_done:,}{of_all} samples"
    parts = [f"{progress.stage}: {progress.clips_done:,} of {progress.clips_total:,} clips"]
    if progress.audio_hours_done:
        parts.append(f"{progress.audio_hours_done:.1f} h")
    if progress.times_real_time is not None:
        parts.append(f"{progress.times_real_time:.{0 if progress.times_real_time >= 10 else 1}f}x real time")  # noqa: PLR2004 - digits
    if progress.seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(progress.seconds_left))} left")
    parts.append(f"{progress.faults:,} fault{'' if progress.faults == 1 else 's'}")
    if progress.workers > 1:
        parts.append(f"{progress.workers} workers")
    return "  ".join(parts)


class ProgressLine:
    """Tells the phase in progress how far it is, and prints a line at intervals to a file that is no terminal.

    Args:
        file: File to print to.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._is_terminal = file.isatty()
        self._printed_at = time.monotonic()

    def __call__(self, progress: PrepareProgress) -> None:
        """Take progress."""
        line = progress_line(progress)
        tell(line.partition(": ")[2])
        now = time.monotonic()
        if not self._is_terminal and now - self._printed_at >= _LINES_S:
            self._printed_at = now
            self._file.write(line + "\n")
            self._file.flush()


class Meter:
    """Measures the speed of the work on clips by all processes together.

    Args:
        total: Number of clips.
        seconds: Audio of all clips; seconds.

    Example:
        >>> meter = Meter(total=2, seconds=8.0, clock=iter([0.0, 1.0]).__next__)
        >>> meter.add(1, 4.0)
        >>> meter.times_real_time, meter.seconds_left
        (4.0, 1.0)
    """

    def __init__(self, total: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self._clock = total, clock
        self.done, self.seconds_done, self.faults = 0, 0.0, 0
        self._seconds = seconds
        self._marks = [(clock(), 0.0)]

    def add(self, clips: int, seconds: float, faults: int = 0) -> None:
        """Count finished clips."""
        self.done += clips
        self.seconds_done += seconds
        self.faults += faults
        now = self._clock()
        self._marks.append((now, self.seconds_done))
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW_S:  # noqa: PLR2004 - two marks make a speed
            del self._marks[0]

    @property
    def times_real_time(self) -> float | None:
        """Seconds of audio a second of wall time; None before the first clip."""
        (begun, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - begun) if now > begun and done > before else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to the end; seconds; None if unknown."""
        speed = self.times_real_time
        return max(0.0, self._seconds - self.seconds_done) / speed if speed else None
