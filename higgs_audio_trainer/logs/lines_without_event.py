"""Lines of a file without an event: their reports, and the bound of their number."""

from __future__ import annotations

from collections.abc import Callable

from higgs_audio_trainer.bounds import (
    MAX_EMPTY_LINES,
    MAX_INVALID_LINES,
    MAX_INVALID_PER_EVENT,
    BoundError,
    are_in_force,
)
from higgs_audio_trainer.errors import InputProblem

_EMPTY_TOLD = 10  # empty lines in a row to report one by one


class LinesWithoutEvent:
    """Counter of the lines without an event.

    Args:
        on_problem: Receives each invalid line, the first empty lines in a row, and the number of the other empty lines.

    Attributes:
        count: Number of lines, less those that the later events make up for.

    Example:
        >>> lines = LinesWithoutEvent(lambda problem: print(problem.got))
        >>> lines.empty("run.jsonl:1")
        an empty line
        >>> lines.end()
        >>> lines.count
        0
    """

    def __init__(self, on_problem: Callable[[InputProblem], None]) -> None:
        self.count = 0
        self._on_problem = on_problem
        self._empty = 0  # in a row
        self._first_untold = ""  # place of the first empty line that is not reported one by one

    def empty(self, place: str) -> None:
        """Count an empty line.

        Raises:
            BoundError: Too many empty lines follow each other.
        """
        self._empty += 1
        if self._empty <= _EMPTY_TOLD:
            self._on_problem(InputProblem(place, "$", "a JSON object", "an empty line"))
        elif self._empty == _EMPTY_TOLD + 1:
            self._first_untold = place
        if self._empty > MAX_EMPTY_LINES and are_in_force():
            self._empty = 0  # the bound tells their number
            raise BoundError(f"at most {MAX_EMPTY_LINES:,} empty lines in a row", "more")
        self._add()

    def invalid(self, problem: InputProblem) -> None:
        """Report and count an invalid line.

        Raises:
            BoundError: The file has too many lines without an event.
        """
        self._end_empty()
        self._on_problem(problem)
        self._add()

    def _add(self) -> None:
        self.count += 1
        if self.count > MAX_INVALID_LINES and are_in_force():
            most = f"{MAX_INVALID_PER_EVENT} lines without an event for each event, or {MAX_INVALID_LINES:,}"
            raise BoundError(f"at most {most}", "more")

    def end(self) -> None:
        """Take a line with an event, or the end of the file."""
        self._end_empty()
        self.count = max(0, self.count - MAX_INVALID_PER_EVENT)

    def _end_empty(self) -> None:
        """Report how many empty lines in a row followed the first ones."""
        more, self._empty = self._empty - _EMPTY_TOLD, 0
        if more > 0:
            self._on_problem(InputProblem(self._first_untold, "$", "a JSON object", f"{more:,} more empty lines"))
