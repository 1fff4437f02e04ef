"""Errors that a user can fix. Commands print the message without a traceback and exit with status 2."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class UserError(Exception):
    """Bad input. The message states the expectation, the actual value, the place and the next step.

    Attributes:
        place: Rank and machine that met the error, if the error was met on another rank than 0.
        is_shared: True if every rank raises this error, so that rank 0 alone prints the message.

    Example:
        >>> from higgs_audio_trainer import TrainSettings
        >>> TrainSettings(train_manifest="train.jsonl", output_dir="out", batch_size=0)
        Traceback (most recent call last):
        higgs_audio_trainer.errors.UserError: --batch_size: expected at least 1, got 0
    """

    def __init__(self, message: str) -> None:
        # torch re-raises an error of a data loader's worker with the worker's traceback in front of the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())
        self.place = ""
        self.is_shared = False


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the question whether the user meant the known name nearest to a mistyped name; empty without a near name.

    Args:
        name: Mistyped name.
        known: Valid names.

    Example:
        >>> suggestion("log_step", ["log_steps", "save_steps"])
        ' Did you mean log_steps?'
        >>> suggestion("x", ["log_steps"])
        ''
    """
    from difflib import get_close_matches

    nearest = get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


class LoggingError(UserError):
    """Failure of logging in a run with `--strict_logging`. `__cause__` is the original exception."""

    def __init__(self, source: str, error: BaseException) -> None:
        got = str(error) if isinstance(error, OSError) and error.filename else repr(error)
        super().__init__(
            f"--strict_logging: expected every event to be logged, got {got} from {source}. "
            "Fix the cause, or train without --strict_logging."
        )


class InputProblem(NamedTuple):
    """One problem in an input file.

    Attributes:
        where: Place of the problem, `file:line`.
        field: Name of the field.
        expected: Description of a valid value.
        got: Description of the actual value.

    Example:
        >>> print(InputProblem("train.jsonl:3", "text", "a text", "an empty text"))
        train.jsonl:3: text: expected a text, got an empty text
    """

    where: str
    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: expected {self.expected}, got {self.got}"


class UnreadRest(InputProblem):
    """A problem after which the rest of the file is not read."""

    __slots__ = ()


#: Field of a problem that no line has, such as the lack of samples.
WHOLE_SOURCE = "manifest"
_MOST_OF_A_KIND = 20
_MOST_KINDS = 100


class ProblemList:
    """Problems of a source in bounded memory: the first of each kind, and the number of all.

    A kind is a field and an expectation, whatever their numbers.

    Attributes:
        kept: The first problems of each kind, in order.
        count: Number of all problems.
        num_places: Number of lines with problems, where the problems of a line follow each other.

    Example:
        >>> problems = ProblemList(InputProblem(f"m.jsonl:{n}", "text", "a text", "nothing") for n in range(1, 4_001))
        >>> lines = problems.lines()
        >>> len(lines), lines[-1]
        (21, 'and 3,980 more like the last')
    """

    def __init__(self, problems: Iterable[InputProblem] = ()) -> None:
        self.kept: list[InputProblem] = []
        self.count = 0
        self.num_places = 0
        self._last_place = ""
        self._counts = Counter[tuple[str, str]]()
        for problem in problems:
            self.add(problem)

    def add(self, problem: InputProblem) -> None:
        """Count a problem, and keep the first problems of each kind."""
        kind = self._kind(problem)
        self._counts[kind] += 1
        self.count += 1
        self.num_places += problem.where != self._last_place
        self._last_place = problem.where
        if self._counts[kind] <= _MOST_OF_A_KIND:
            self.kept.append(problem)

    def lines(self) -> list[str]:
        """Return lines for the problems: in order if all are kept, else kind by kind."""
        if len(self.kept) == self.count:
            return [str(problem) for problem in self.kept]
        by_kind: dict[tuple[str, str], list[str]] = {}
        for problem in self.kept:
            by_kind.setdefault(self._kind(problem), []).append(str(problem))
        lines = []
        for kind, shown in by_kind.items():
            more = self._counts[kind] - len(shown)
            lines += [*shown, f"and {more:,} more like the last"] if more else shown
        return lines

    def _kind(self, problem: InputProblem) -> tuple[str, str]:
        kind = _without_numbers(problem.field), _without_numbers(problem.expected)
        return kind if kind in self._counts or len(self._counts) < _MOST_KINDS else ("", "")


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+(?:[.,]\d+)*", "0", text)


def listed(problems: Iterable[InputProblem]) -> list[str]:
    """Return lines for problems, see `ProblemList`."""
    return ProblemList(problems).lines()


def one_line(error: BaseException) -> str:
    r"""Return the message of an error as one line without a full stop, or the name of its type.

    Example:
        >>> one_line(ValueError("no such\n  thing."))
        'no such thing'
    """
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def of_library(error: Exception) -> str:
    """Return the message of a library's error as one line, with the name of a type whose message alone says little.

    Example:
        >>> of_library(KeyError("rope_theta")), of_library(ValueError("no such file"))
        ("KeyError: 'rope_theta'", 'no such file')
    """
    is_telling = type(error).__module__ != "builtins" or isinstance(
        error, (OSError, ValueError, RuntimeError, ImportError)
    )
    return one_line(error) if is_telling else f"{type(error).__name__}: {one_line(error)}"


class ManifestError(UserError):
    """Problems of a manifest. The message lists the problems, see `ProblemList`.

    Attributes:
        problems: The problems, or the first of each kind if the error was made of a `ProblemList`.

    Example:
        >>> print(ManifestError([InputProblem("train.jsonl:3", "text", "a text", "an empty text")]))
        train.jsonl:3: text: expected a text, got an empty text
        1 problem. Fix it, or pass --skip_bad_samples to train without this line.
    """

    def __init__(self, problems: Sequence[InputProblem] | ProblemList) -> None:
        found = problems if isinstance(problems, ProblemList) else ProblemList(problems)
        self.problems = tuple(found.kept if isinstance(problems, ProblemList) else problems)
        self._found = found
        is_single = found.count == 1
        advice = f"{found.count:,} problem{'' if is_single else 's'}. Fix {'it' if is_single else 'them'}"
        if any(problem.field != WHOLE_SOURCE for problem in found.kept):
            lines = "this line" if is_single else "these lines"
            advice += f", or pass --skip_bad_samples to train without {lines}"
        super().__init__("\n".join([*found.lines(), f"{advice}."]))

    def __reduce__(self) -> tuple[type[ManifestError], tuple[ProblemList], dict[str, Any]]:
        return type(self), (self._found,), self.__dict__  # rank 0 sends the error to the other ranks
