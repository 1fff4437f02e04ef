"""Violations of the lines and files of a log together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION
from higgs_audio_trainer.logs.files import AttemptFiles
from higgs_audio_trainer.logs.lines import LogLine, where
from higgs_audio_trainer.logs.validation.violation import Violation


def other_run(line: LogLine, run_id: str | None, others: Collection[str | None]) -> Iterator[Violation]:
    """Report the first line of a further run of a file."""
    if others:
        expected = f"{next(iter(others))!r}, the run of the lines before"
        got = f"{run_id!r}, another run, which is checked for itself"
        yield Violation(line.where, "$.run_id", expected, got, "run_id", "note")


def missing_attempts(log: Sequence[AttemptFiles]) -> Iterator[Violation]:
    """Yield a note for attempts without files between two attempts with files."""
    first_files = {group.attempt: group.files[0] for group in reversed(log)}
    for one, other in pairwise(sorted(first_files)):
        if other > one + 1:
            missing = f"attempt {one + 1}" if other == one + 2 else f"attempts {one + 1} to {other - 1}"
            place = where(first_files[other], 1, 0)
            yield Violation(place, "$.attempt", f"files of {missing}", "none", "name", "note")


def misnamed(line: LogLine, group: AttemptFiles, key: tuple[int, int]) -> Violation:
    """Return the violation of a line with another rank or attempt than in the file's name."""
    name = "rank" if key[0] != group.rank else "attempt"
    expected, got = (group.rank, key[0]) if name == "rank" else (group.attempt, key[1])
    return Violation(line.where, f"$.{name}", f"{expected}, as in the file's name", str(got), "name")


def unknown_event(line: LogLine) -> Violation:
    """Return the violation of a line with an unknown event or version."""
    event, newer = (
        line.record["event"],
        "a newer version may have written the line; check the log with the newer version",
    )
    if event not in EVENTS:
        return Violation(line.where, "$.event", f"one of {', '.join(EVENTS)}", f"{event!r}: {newer}", "unknown")
    return Violation(line.where, "$.v", str(SCHEMA_VERSION), f"{line.record.get('v')!r}: {newer}", "unknown")


def empty(path: Path, *, is_last: bool) -> Violation:
    """Return the violation of a file without a line."""
    return Violation(
        where(path, 1, 0), "$", "run_start as the first line", "no line", "run_start", "error" if is_last else "note"
    )
