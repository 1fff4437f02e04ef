"""Messages for the user when logging fails."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from tqdm import tqdm

from higgs_audio_trainer.errors import LoggingError
from higgs_audio_trainer.pipeline.description import describe, short

Say = Callable[[str], None]

_MAX_DESCRIPTION = 300


def print_above_progress_bar(text: str) -> None:
    """Print one line on stderr, above any progress bar. Print nothing if stderr is closed."""
    if sys.stderr is not None:
        tqdm.write(text, file=sys.stderr)


def errno_of(error: BaseException) -> int | None:
    """Return the error number of an operating system's error, None for every other error.

    Example:
        >>> errno_of(OSError(28, "No space left on device")), errno_of(ValueError("x"))
        (28, None)
    """
    number = error.errno if isinstance(error, OSError) else None
    return number if type(number) is int else None


def failure_message(source: str, error: BaseException, *, costs_event: bool = True) -> str:
    """Return one line about the failure of a sink or of another source of the log.

    Args:
        source: Name of the sink or of the part that failed.
        error: The error.
        costs_event: Whether an event may be lost.

    Example:
        >>> failure_message("jsonl", OSError(28, "Disk full")).partition("; ")[0]
        'higgs-audio-trainer: logging to jsonl failed: Disk full (ENOSPC)'
        >>> failure_message("processor p", KeyError("a"), costs_event=False)
        "higgs-audio-trainer: processor p failed: KeyError('a'); training continues and no event is lost."
    """
    if not costs_event:
        return (
            f"higgs-audio-trainer: {source} failed: {_describe_error(error)}; training continues and no event is lost."
        )
    return (
        f"higgs-audio-trainer: logging to {source} failed: {_describe_error(error)}; training continues; "
        "run_end has the number of lost events."
    )


def _describe_error(error: BaseException) -> str:
    """Return an error as one line without control characters."""
    try:
        return short(_system_error_text(error) or repr(error), _MAX_DESCRIPTION)
    except Exception:  # noqa: BLE001 - `repr` of a foreign exception may raise; the type is always known
        return describe(error)


def _system_error_text(error: BaseException) -> str:
    number = errno_of(error)
    if not isinstance(error, OSError) or number is None:
        return ""
    where = "" if error.filename is None else f": {error.filename!r}"
    return f"{error.strerror} ({errno.errorcode.get(number, number)}){where}"


def strict_error(source: str, error: BaseException) -> LoggingError:
    """Return the error to end a strict run with. The `repr` of the original error may raise."""
    try:
        return LoggingError(source, error)
    except Exception:  # noqa: BLE001 - `repr` of a foreign exception may raise
        return LoggingError(source, RuntimeError(describe(error)))
