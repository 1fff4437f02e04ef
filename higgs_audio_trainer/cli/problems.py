"""Problems of a log and messages about a log, printed on stderr while the rest of the log is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from higgs_audio_trainer.errors import InputProblem, UnreadRest
from higgs_audio_trainer.phases import aside
from sinks.terminal.escape import printable
from sinks.terminal.words import count_of

_MAX_PRINTED = 20


class ProblemPrinter:
    """Printer of the first 20 problems and messages, and counter of all problems.

    Attributes:
        count: Number of problems so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._said = 0
        self._has_unread_rest = False
        self._postponed: list[str] | None = None

    def __call__(self, problem: InputProblem) -> None:
        """Count a problem and print the problem."""
        self.count += 1
        is_end = isinstance(problem, UnreadRest)
        self._has_unread_rest |= is_end
        if self.count <= _MAX_PRINTED or is_end:
            self._print(printable(str(problem)))

    def say(self, text: str) -> None:
        """Print one of the first messages about the whole log, such as the ids of the runs."""
        self._said += 1
        if self._said <= _MAX_PRINTED:
            self._print(printable(text))
        elif self._said == _MAX_PRINTED + 1:
            self._print(f"further messages, such as {printable(text)}, are not printed")

    @contextmanager
    def postponed(self, *, wanted: bool) -> Iterator[None]:
        """Print problems and messages after the block, because a pager owns the screen during the block."""
        self._postponed = [] if wanted else None
        try:
            yield
        finally:
            lines, self._postponed = self._postponed or [], None
            for line in lines:
                self._print(line)

    def _print(self, line: str) -> None:
        if self._postponed is None:
            _say(line)
        else:
            self._postponed.append(line)

    def close(self) -> None:
        """Print the number of problems, if there are problems."""
        if self.count:
            shown = f", of which {_MAX_PRINTED} are shown" if self.count > _MAX_PRINTED else ""
            rest = "The rest of a file was not read" if self._has_unread_rest else "All other lines were read"
            _say(f"{count_of(self.count, 'problem')}{shown}. {rest}. Run `validate` for details.")


def _say(text: str) -> None:
    from sinks.terminal.screen import say_on_stderr  # the terminal is slow to import, and most logs have no problem

    with aside():
        say_on_stderr(text)
