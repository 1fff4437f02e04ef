"""What is said to a person when logging fails."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from tqdm import tqdm

from higgs_audio_trainer.errors import LoggingError
from higgs_audio_trainer.pipeline.json_values import describe, short

Say = Callable[[str], None]

_MAX_DESCRIPTION = 300


def say_on_stderr(text: str) -> None:
    """Say one line on stderr, beside a progress bar and not through it; closed, there is nowhere to say it."""
    if sys.stderr is not None:
        tqdm.write(text, file=sys.stderr)


def errno_of(error: BaseException) -> int | None:
    """Return the number of an operating system's error; None where there is none."""
    number = error.errno if isinstance(error, OSError) else None
    return number if type(number) is int else None


def failure_message(source: str, error: BaseException, *, costs_event: bool = True) -> str:
    """Return one line about the failure of a sink or of another source of the log.

    Args:
        source: Name of the sink or of the part that failed.
        error: The error.
        costs_event: Whether an event may be lost.

    >>> failure_message("jsonl", OSError(28, "Disk full")).partition("; ")[0]
    'higgs-audio-trainer: logging to jsonl failed: Disk full (ENOSPC)'
    >>> failure_message("processor p", KeyError("a"), costs_event=False)
    "higgs-audio-trainer: processor p failed: KeyError('a'); training goes on and no event is lost."
    """
    if not costs_event:
        return f"higgs-audio-trainer: {source} failed: {_described(error)}; training goes on and no event is lost."
    return (
        f"higgs-audio-trainer: logging to {source} failed: {_described(error)}; training goes on and run_end counts "
        "what is lost."
    )


def _described(error: BaseException) -> str:
    """Say what went wrong, in one line without control characters of the data."""
    try:
        return short(_os_error_words(error) or repr(error), _MAX_DESCRIPTION)
    except Exception:  # noqa: BLE001 - an exception's own description may raise; its type is left
        return describe(error)


def _os_error_words(error: BaseException) -> str:
    number = errno_of(error)
    if not isinstance(error, OSError) or number is None:
        return ""
    where = "" if error.filename is None else f": {error.filename!r}"
    return f"{error.strerror} ({errno.errorcode.get(number, number)}){where}"


def strict_error(source: str, error: BaseException) -> LoggingError:
    """Make the error that ends a strict run, also out of an error that cannot be described."""
    try:
        return LoggingError(source, error)
    except Exception:  # noqa: BLE001 - the message holds the error's own description, which may raise
        return LoggingError(source, RuntimeError(describe(error)))
