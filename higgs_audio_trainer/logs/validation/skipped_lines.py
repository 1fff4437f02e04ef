"""Invalid lines of a file, between two valid lines."""

from __future__ import annotations

from higgs_audio_trainer.errors import InputProblem, UnreadRest

_MOST_LINES = 100  # invalid lines to report between two valid lines; more invalid lines are only counted


class SkippedLines:
    """Collects the invalid lines of a file between two valid lines, and counts the lines beyond the limit.

    Attributes:
        count: Number of invalid lines in the file.
        is_at_head: Whether no valid line was read yet.
    """

    def __init__(self) -> None:
        self.count = 0
        self.is_at_head = True
        self._kept: list[InputProblem] = []
        self._more: tuple[str, int] | None = None

    def __call__(self, fault: InputProblem) -> None:
        """Add an invalid line."""
        self.count += 1
        if len(self._kept) < _MOST_LINES or isinstance(fault, UnreadRest):
            self._kept.append(fault)
        else:
            self._more = (fault.where, 1) if self._more is None else (self._more[0], self._more[1] + 1)

    def take(self) -> list[InputProblem]:
        """Remove and return the problems of the kept lines."""
        kept, self._kept = self._kept, []
        return kept

    def take_more(self) -> tuple[str, int] | None:
        """Remove and return the place of the first invalid line beyond the limit, and the number of such lines."""
        more, self._more = self._more, None
        return more
