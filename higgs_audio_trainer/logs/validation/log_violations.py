"""Violations of the lines and files of a log together."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION
from higgs_audio_trainer.logs.files import AttemptFiles
from higgs_audio_trainer.logs.lines import LogLine, where
from higgs_audio_trainer.logs.logged_runs import run_id_of
from higgs_audio_trainer.logs.source import has_no_checksum
from higgs_audio_trainer.logs.typed import MARKS
from higgs_audio_trainer.logs.validation.violation import Violation

#: Runs of a file to check, each with a state of about 8 KiB. A folder of many trainings has a file for each.
MOST_RUNS = 1000
_MOST_NAMES = 100  # unknown fields to report


def too_many_runs(line: LogLine) -> Violation:
    """Return the violation of the first line of a run beyond the limit."""
    got = f"another run, {run_id_of(line.record)!r}. The lines after it were not checked"
    return Violation(line.where, "$.run_id", f"at most {MOST_RUNS:,} runs in a file", got, "run_id")


def unknown_fields(line: LogLine, known: set[tuple[str, str]]) -> Iterator[Violation]:
    """Yield a note for each unknown field of a line.

    Args:
        line: Line with an event.
        known: Events and fields reported before; the fields of the line are added.
    """
    event = line.record["event"]
    if event not in EVENTS:
        return
    got = (
        "a field unknown to this version; a processor of the run may have added the field, or a newer version may have "
        "written the line"
    )
    for name in line.event.extra:
        if name not in MARKS and (event, name) not in known and len(known) < _MOST_NAMES:
            known.add((event, name))
            yield Violation(line.where, f"$.{name}", f"a field of {event}", got, "unknown", "note")


def other_run(line: LogLine, run_id: str | None, others: Collection[str | None]) -> Iterator[Violation]:
    """Report the first line of a further run of a file."""
    if others:
        expected = f"{next(iter(others))!r}, the run of the lines before"
        got = f"{run_id!r}, another run, which is checked for itself"
        yield Violation(line.where, "$.run_id", expected, got, "run_id", "note")


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


def without_checksum(path: Path) -> Iterator[Violation]:
    """Yield a note for a compressed file in which a flipped bit may change a value without a trace."""
    if has_no_checksum(path):
        got = "zstd without a checksum: damage may go unnoticed. `zstd --check` writes one"
        yield Violation(where(path, 1, 0), "$", "a checksum of the compressed data", got, "damage", "note")
