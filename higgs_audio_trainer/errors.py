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


def suggestion(name: str, known: Iterable[str], *, cutoff: float = 0.6, prefix: str = "") -> str:
    """Return the question whether the user meant the known name nearest to a mistyped name; empty without a near name.

    Args:
        name: Mistyped name.
        known: Valid names.
        cutoff: Least similarity, from 0 to 1, as for `difflib.get_close_matches`.
        prefix: Text in front of the nearest name, such as the dashes of a flag.

    Example:
        >>> suggestion("log_step", ["log_steps", "save_steps"])
        ' Did you mean log_steps?'
        >>> suggestion("lrr", ["lr", "wd"], prefix="--")
        ' Did you mean --lr?'
        >>> suggestion("x", ["log_steps"])
        ''
    """
    from difflib import get_close_matches

    nearest = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {prefix}{nearest[0]}?" if nearest else ""


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


_MOST_OF_A_KIND = 10


def listed(problems: Sequence[InputProblem]) -> list[str]:
    """Return lines for problems. Of many problems of one kind in one file, the first ten, and the number of the others.

    Example:
        >>> problems = [InputProblem(f"m.jsonl:{n}", "text", "a text", "nothing") for n in range(1, 4_001)]
        >>> lines = listed(problems)
        >>> len(lines), lines[-1]
        (11, 'm.jsonl: text: expected a text: 3,990 more lines')
    """
    lines, kinds = [], Counter[tuple[str, str, str]]()
    for problem in problems:
        kind = problem.where.rpartition(":")[0], re.sub(r"\[\d+\]", "[]", problem.field), problem.expected
        kinds[kind] += 1
        if kinds[kind] <= _MOST_OF_A_KIND:
            lines.append(str(problem))
    for (file, field, expected), count in kinds.items():
        if more := max(0, count - _MOST_OF_A_KIND):
            lines.append(f"{file}: {field}: expected {expected}: {more:,} more line{'' if more == 1 else 's'}")
    return lines


class ManifestError(UserError):
    """Problems of a manifest. The message lists the problems, see `listed`.

    Example:
        >>> print(ManifestError([InputProblem("train.jsonl:3", "text", "a text", "an empty text")]))
        train.jsonl:3: text: expected a text, got an empty text
        1 problem. Fix it, or pass --skip_bad_samples to train without this line.
    """

    def __init__(self, problems: Sequence[InputProblem]) -> None:
        self.problems = tuple(problems)
        is_single = len(self.problems) == 1
        advice = (
            f"{len(self.problems):,} problem{'' if is_single else 's'}. Fix {'it' if is_single else 'them'}, or pass "
            f"--skip_bad_samples to train without {'this line' if is_single else 'these lines'}."
        )
        super().__init__("\n".join([*listed(self.problems), advice]))

    def __reduce__(self) -> tuple[type[ManifestError], tuple[tuple[InputProblem, ...]], dict[str, Any]]:
        return type(self), (self.problems,), self.__dict__  # rank 0 sends the error to the other ranks
