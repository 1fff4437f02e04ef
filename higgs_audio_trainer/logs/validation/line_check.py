"""Checks of each line alone: the schema, repeated members, and the rules between values of one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION
from higgs_audio_trainer.logs.lines import LogLine
from higgs_audio_trainer.logs.run_filter import is_newer
from higgs_audio_trainer.logs.typed import Record, is_explained, typed
from higgs_audio_trainer.logs.validation.consistency import contradictions, inconsistencies
from higgs_audio_trainer.logs.validation.log_violations import unknown_event, unknown_fields
from higgs_audio_trainer.logs.validation.members import repeated_member
from higgs_audio_trainer.logs.validation.strict import invalid_field, is_plain
from higgs_audio_trainer.logs.validation.violation import Violation


class LineCheck:
    """Checks lines, and remembers the unknown fields and the newer versions that were reported."""

    def __init__(self) -> None:
        self._unknown: set[tuple[str, str]] = set()
        self._newer: set[int] = set()

    def report(self, line: LogLine, found: Sequence[Violation]) -> Iterator[Violation]:
        """Yield what to report of a line: its violations, the first event of a newer version, and unknown fields."""
        if is_newer(line.record):
            yield from self._newer_version(line)
        else:
            yield from found
        if line.event is not None and line.event.extra:
            yield from unknown_fields(line, self._unknown)

    def _newer_version(self, line: LogLine) -> Iterator[Violation]:
        version = line.record["v"]
        if version not in self._newer:
            self._newer.add(version)
            got = f"{version} of a newer higgs-audio-trainer, as perhaps in more lines; check the log with that version"
            yield Violation(line.where, "$.v", str(SCHEMA_VERSION), got, "unknown")


def violations_of(line: LogLine, start: Record, *, is_golden: bool) -> list[Violation]:
    """List the violations of a line without other lines.

    Args:
        line: Line with the event of `event_of`.
        start: `run_start` of the line's rank and attempt, empty if missing.
        is_golden: Whether the line lacks the volatile fields.
    """
    record, found = line.record, []
    repeated = repeated_member(line.raw, record)
    if repeated is not None:
        found.append(Violation(line.where, "$", "each member of a JSON object once", f"{repeated!r} twice", "member"))
    event = record["event"]
    start = record if event == "run_start" else start
    if line.event is None:  # a plain line, see `event_of`
        wrong = contradictions(record, start)
    elif event not in EVENTS or record.get("v") != SCHEMA_VERSION:
        return [*found, unknown_event(line)]
    elif (invalid := invalid_field(record, golden=is_golden)) is not None:
        return [*found, Violation(line.where, *invalid, "schema")]
    else:
        wrong = [item for item in inconsistencies(record, start) if not is_explained(record, item)]
    return [*found, *(Violation(line.where, *item, "value") for item in wrong)] if wrong else found


def event_of(record: Record) -> Any:
    """Return the typed event of a record; None for a plain record, whose typed event gives no further information."""
    return None if is_plain(record) else typed(record)
