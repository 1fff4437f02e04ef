"""Errors that are the user's to mend: said in full, without a traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class UserError(Exception):
    """Bad input. The message says what was expected, what was found, where, and what to do next."""

    def __init__(self, message: str) -> None:
        # torch raises the error of a data loader's worker anew, with the worker's traceback in front of the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())


def suggestion(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Ask whether the name that is most like a wrong one was meant; empty if none is like it enough.

    Args:
        name: the wrong one.
        known: those that there are.
        cutoff: how alike they must be, from 0 to 1, as for `difflib.get_close_matches`.
    """
    from difflib import get_close_matches

    found = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {found[0]}?" if found else ""


class LoggingError(UserError):
    """Logging failed in a run that `--strict_logging` makes depend on its log. `__cause__` is what was raised."""

    def __init__(self, source: str, error: BaseException) -> None:
        got = str(error) if isinstance(error, OSError) and error.filename else repr(error)
        super().__init__(
            f"--strict_logging: expected every event to be logged, got {got} from {source}. "
            "Mend its cause, or train without --strict_logging"
        )


class InputProblem(NamedTuple):
    """One fault of an input file; prints as `file:line: field: expected ..., got ...`."""

    where: str
    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: expected {self.expected}, got {self.got}"


class ManifestError(UserError):
    """A manifest has faults; all of them are listed at once."""

    def __init__(self, problems: Sequence[InputProblem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        advice = "Fix them, or pass --skip_bad_samples to train without these lines."
        super().__init__("\n".join([*map(str, self.problems), f"{count}. {advice}"]))

    def __reduce__(self) -> tuple[type[ManifestError], tuple[tuple[InputProblem, ...]]]:
        return type(self), (self.problems,)  # rank 0 sends it to the others
