"""Report of a running training: the page is written again whenever the log has grown, until the run ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.cli.report import EmptyLogError, WantedRuns, compared, gathered, write_page
from higgs_audio_trainer.errors import InputProblem
from higgs_audio_trainer.logs.files import files_in
from higgs_audio_trainer.logs.run_filter import NoSuchRunError
from higgs_audio_trainer.logs.source import unreadable
from higgs_audio_trainer.phases import phase
from sinks.terminal.escape import printable
from sinks.terminal.screen import say_on_stderr

_REFRESH_S = 10  # between two loads of the page in the browser
_PERIOD_S = 1.0  # between two looks at the files
_SHARE = 4  # at most a quarter of the time is spent on pages, so that a long log does not slow the training
_State = list[tuple[Path, int, int]]  # size and time of each file


def follow(names: Sequence[str], runs: WantedRuns, target: Path) -> int:
    """Write the page of logs until all runs have ended or Ctrl-C, and return the exit status.

    While a run continues, the page loads itself again. The last page does not.

    Args:
        names: Logs on the command line.
        runs: Wanted run of each log.
        target: File to write.

    Raises:
        UserError: A log cannot be read, or the page cannot be written.
    """
    page = _FollowedPage(names, runs, target)
    try:
        while not page.update():
            time.sleep(page.pause_s)
    except KeyboardInterrupt:
        page.finish()
    return 0


class _FollowedPage:
    """Page of logs that grow.

    Attributes:
        pause_s: Seconds until the next look at the files.
    """

    def __init__(self, names: Sequence[str], runs: WantedRuns, target: Path) -> None:
        self._names, self._runs, self._target = names, runs, target
        self._state: _State = []
        self._is_waiting = self._is_written = False
        self.pause_s = _PERIOD_S

    def update(self) -> bool:
        """Write the page if the logs have grown, and return True if all runs have ended.

        Raises:
            UserError: A log cannot be read, or the page cannot be written.
        """
        state = _state_of(self._names)
        if state is None or state == self._state:
            self._wait(state)
            return False
        begun = time.monotonic()
        problems = _SilentProblems()
        try:
            with nullcontext() if self._is_written else phase("reading the log"):
                logs = gathered(self._names, self._runs, problems)
        except (EmptyLogError, NoSuchRunError):  # the run has not begun
            self._wait(None)
            return False
        has_ended = all(log.end is not None for log in logs)
        comparisons = compared(self._names, self._runs)
        line = write_page(self._target, logs, comparisons, refresh_s=None if has_ended else _REFRESH_S)
        is_first, self._is_written, self._state = not self._is_written, True, state
        self.pause_s = max(_PERIOD_S, _SHARE * (time.monotonic() - begun))
        if has_ended:
            print(line)
        elif is_first:
            print(f"{line}. Written again while the run continues; Ctrl-C ends this", flush=True)
        return has_ended

    def finish(self) -> None:
        """Write a last page, which does not load itself again."""
        if self._is_written:
            logs = gathered(self._names, self._runs, _SilentProblems())
            print(write_page(self._target, logs, compared(self._names, self._runs)))

    def _wait(self, state: _State | None) -> None:
        if state is None and not self._is_waiting:
            say_on_stderr(printable(f"waiting for events in {', '.join(self._names)}"))
            self._is_waiting = True


class _SilentProblems(ProblemPrinter):
    """Counter of problems, which prints none: a growing log is read many times, and the page has the number."""

    def __call__(self, _problem: InputProblem) -> None:
        self.count += 1

    def say(self, text: str) -> None:
        pass


def _state_of(names: Sequence[str]) -> _State | None:
    """Return the size and the time of each file of logs. None if a folder has no log yet.

    Raises:
        UserError: A path does not exist or cannot be examined.
    """
    state: _State = []
    for path in map(Path, names):
        try:
            files = sorted(files_in(path).values()) if path.is_dir() else [path]
            found = [(file, status.st_size, status.st_mtime_ns) for file in files for status in (file.stat(),)]
        except OSError as error:
            raise unreadable(path, error) from error
        if not found:
            return None
        state += found
    return state
