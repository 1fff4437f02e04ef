"""Validation of a log: the schema of each line, and the relations between lines.

All attempts are validated, each file in its own order, line by line. Memory does not grow with the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION
from higgs_audio_trainer.logs.files import AttemptFiles, parse_name
from higgs_audio_trainer.logs.gaps import may_begin_late
from higgs_audio_trainer.logs.lines import LogFile, LogLine, int_field
from higgs_audio_trainer.logs.logged_runs import run_id_of
from higgs_audio_trainer.logs.run_filter import OnNotice, is_newer
from higgs_audio_trainer.logs.runs import SelectedLog, selected
from higgs_audio_trainer.logs.typed import MARKS, Record, is_explained, typed
from higgs_audio_trainer.logs.validation.attempt_check import AttemptCheck
from higgs_audio_trainer.logs.validation.consistency import contradictions, inconsistencies
from higgs_audio_trainer.logs.validation.log_violations import (
    empty,
    misnamed,
    missing_attempts,
    other_run,
    unknown_event,
)
from higgs_audio_trainer.logs.validation.members import repeated_member
from higgs_audio_trainer.logs.validation.skipped_lines import SkippedLines
from higgs_audio_trainer.logs.validation.strict import invalid_field, is_plain
from higgs_audio_trainer.logs.validation.violation import Kind, Violation

_MOST_NAMES = 100  # unknown fields to report
_NOT_IN_GOLDEN = ("ts", "run_id", "attempt", "seq")  # fields that golden files lack
_Key = tuple[int, int]  # rank and attempt


def validate(*paths: str | Path, run: str | None = None, on_notice: OnNotice | None = None) -> Validation:
    r"""Validate logs. The returned object yields violations; its counts are complete after the iteration.

    Several runs of a log, such as two trainings in one folder, are validated each for itself.

    Args:
        paths: Paths as for `read`.
        run: Id of the run to validate, or the beginning of the id. By default every run.
        on_notice: Receives each message about a log with several runs. By default a Python warning.

    Raises:
        UserError: A path holds no log, or `run` names no run or several runs. During iteration, a file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> line = '{"event": "checkpoint", "v": 1, "rank": 0, "level": "info", "step": 10, "path": "checkpoint-20"}'
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "golden.jsonl"
        ...     _ = path.write_text(line + "\n")
        ...     validation = validate(path)
        ...     [(violation.path, violation.expected, violation.got) for violation in validation]
        [('$.path', 'checkpoint-10, the number of the step', "'checkpoint-20'")]
        >>> validation.events, validation.errors
        (1, 1)
    """
    return Validation(selected(paths, run, on_notice, every=True, split=False))


class Validation:
    """Violations, found during iteration, and counts of the lines so far.

    Args:
        logs: Files of each log, and the filters for the lines to validate.

    Attributes:
        events: Number of lines with an event.
        ranks: Ranks of the lines.
        attempts: Attempts of the lines.
        kinds: Number of errors by kind.
        notes: Number of notes.
        has_noted_gaps: Whether the log has explained gaps.
        is_golden: Whether the log is a golden file, whose lines lack the volatile fields.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "golden.jsonl"
        ...     _ = path.write_text("no event")
        ...     validation = validate(path)
        ...     [violation.severity for violation in validation], validation.errors
        (['error'], 1)
    """

    def __init__(self, logs: Sequence[SelectedLog]) -> None:
        self._logs = logs
        self._reset()

    def _reset(self) -> None:
        self.events = self.notes = 0
        self.ranks: set[int] = set()
        self.attempts: set[int] = set()
        self.kinds: Counter[Kind] = Counter()
        self.is_golden = self.has_noted_gaps = False

    @property
    def errors(self) -> int:
        """Number of violations with the severity `error`."""
        return self.kinds.total()

    def __iter__(self) -> Iterator[Violation]:
        self._reset()  # each iteration counts again
        for violation in chain.from_iterable(_ValidatedLog(log, self).violations() for log in self._logs):
            if violation.severity == "note":
                self.notes += 1
                self.has_noted_gaps = self.has_noted_gaps or violation.kind == "gap"
            else:
                self.kinds[violation.kind] += 1
            yield violation


class _ValidatedLog:
    """State shared by the files of a log."""

    def __init__(self, log: SelectedLog, counts: Validation) -> None:
        self._log, self._takes, runs = log
        self._last_attempts = {run.run_id: max(attempt for _, attempt in run.parts) for run in runs}
        self._counts = counts
        self._is_golden: bool | None = None  # unknown before the first line
        self._unknown: set[tuple[str, str]] = set()
        self._newer: set[int] = set()  # reported versions

    def violations(self) -> Iterator[Violation]:
        if self._takes.takes_every or len(self._takes.others) < 2:  # noqa: PLR2004 - else other runs have the files
            yield from missing_attempts(self._log)
        for group in self._log:
            if parse_name(group.files[0]) is None:
                yield from self._joined(group.files[0])
            else:
                yield from self._named(group)
        self._takes.finish(says_versions=False)  # each newer version is a violation

    def _named(self, group: AttemptFiles) -> Iterator[Violation]:
        """Validate files whose names contain rank and attempt."""
        begins_late = may_begin_late(group.files[0])
        check = AttemptCheck(begins_late=begins_late)
        checks: dict[str | None, AttemptCheck] = {}  # by run
        previous: _Key | None = None
        size = 0
        for path in group.files:
            for each in checks.values():
                each.begin_file()
            faults = SkippedLines()
            for line in LogFile(path, faults, event_of=_event_of, takes=self._takes).lines():
                if faults.count:
                    yield from self._faults(faults, check)
                size += 1
                if size == 1 and self._begins_golden(line.record):
                    check = AttemptCheck(is_golden=True)
                run_id = run_id_of(line.record)
                if run_id not in checks:
                    yield from other_run(line, run_id, checks)
                    checks[run_id] = AttemptCheck(begins_late=begins_late) if checks else check
                check = checks[run_id]
                key = _key_of(line.record, (group.rank, group.attempt))
                if key not in (previous, (group.rank, group.attempt)):
                    yield misnamed(line, group, key)
                if previous is None:
                    self._counts.ranks.add(group.rank)
                    self._counts.attempts.add(group.attempt)
                previous = key
                yield from self._line(line, check, after_fault=faults.count > 0 and faults.is_at_head)
                faults.is_at_head = False
            yield from self._faults(faults, check)
            size += faults.count
        if size == 0:
            yield empty(group.files[0], is_last=self._is_last(group.attempt, None))
        yield from self._ends(group, checks or {None: check})

    def _ends(self, group: AttemptFiles, checks: Mapping[str | None, AttemptCheck]) -> Iterator[Violation]:
        for run_id, check in checks.items():
            yield from check.end(is_last=self._is_last(group.attempt, run_id))

    def _is_last(self, attempt: int, run_id: str | None) -> bool:
        """Return True if a run has no later attempt. Without lines of the run, the attempts of all files count."""
        return attempt == self._last_attempts.get(run_id, max(group.attempt for group in self._log))

    def _joined(self, path: Path) -> Iterator[Violation]:
        """Validate a file that may hold the lines of several runs, ranks and attempts, as written by `merge`."""
        checks: dict[tuple[str | None, int, int], AttemptCheck] = {}  # by run, rank and attempt
        last: dict[str | None, int] = {}  # highest attempt of each run
        check = AttemptCheck(is_joined=True)  # for lines before the first rank and attempt
        faults = SkippedLines()
        for line in LogFile(path, faults, event_of=_event_of, takes=self._takes).lines():
            if faults.count:
                yield from self._faults(faults, check)
            is_golden = not checks and self._begins_golden(line.record)
            run_id, (rank, attempt) = run_id_of(line.record), _key_of(line.record, (0, 0))
            if run_id not in last:
                yield from other_run(line, run_id, last)
            last[run_id] = max(attempt, last.get(run_id, 0))
            if (run_id, rank, attempt) not in checks:
                checks[run_id, rank, attempt] = (
                    check
                    if not checks and not is_golden
                    else AttemptCheck(is_golden=run_id is None and bool(self._is_golden), is_joined=True)
                )
            check = checks[run_id, rank, attempt]
            self._counts.ranks.add(rank)
            self._counts.attempts.add(attempt)
            yield from self._line(line, check, after_fault=faults.count > 0 and faults.is_at_head)
            faults.is_at_head = False
        yield from self._faults(faults, check)
        if not checks and not faults.count:
            yield empty(path, is_last=True)
        for (run_id, _, attempt), each in checks.items() or [((None, 0, 0), check)]:
            is_last = attempt == last.get(run_id, 0)
            yield from each.end(is_last=is_last, may_be_part=not is_last)

    def _begins_golden(self, first: Record) -> bool:
        self._is_golden = not any(name in first for name in _NOT_IN_GOLDEN)
        self._counts.is_golden = self._counts.is_golden or self._is_golden
        return self._is_golden

    def _faults(self, faults: SkippedLines, check: AttemptCheck) -> Iterator[Violation]:
        for fault in faults.take():
            kind: Kind = "line" if fault.field == "$" else "schema"
            yield from check.faulty(Violation(fault.where, fault.field, fault.expected, fault.got, kind))
        if more := faults.take_more():
            yield Violation(more[0], "$", "lines with an event", f"{more[1]:,} more lines without an event", "line")

    def _line(self, line: LogLine, check: AttemptCheck, *, after_fault: bool) -> Iterator[Violation]:
        if check.is_repeated(line):
            return
        self._counts.events += 1
        found = self._alone(line, check)
        if is_newer(line.record):
            yield from self._newer_version(line)
        else:
            yield from found
        if line.event is not None and line.event.extra:
            yield from self._unknown_fields(line)
        yield from check.take(line, is_sound=not found, after_fault=after_fault)

    def _alone(self, line: LogLine, check: AttemptCheck) -> list[Violation]:
        """Validate a line without other lines."""
        record, found = line.record, []
        repeated = repeated_member(line.raw, record)
        if repeated is not None:
            found.append(
                Violation(line.where, "$", "each member of a JSON object once", f"{repeated!r} twice", "member")
            )
        event = record["event"]
        start = record if event == "run_start" else check.start
        if line.event is None:  # a plain line, see `_event_of`
            wrong = contradictions(record, start)
        elif event not in EVENTS or record.get("v") != SCHEMA_VERSION:
            return [*found, unknown_event(line)]
        elif (invalid := invalid_field(record, golden=check.is_golden)) is not None:
            return [*found, Violation(line.where, *invalid, "schema")]
        else:
            wrong = [item for item in inconsistencies(record, start) if not is_explained(record, item)]
        return [*found, *(Violation(line.where, *item, "value") for item in wrong)] if wrong else found

    def _newer_version(self, line: LogLine) -> Iterator[Violation]:
        """Report the first event of a newer version."""
        version = line.record["v"]
        if version not in self._newer:
            self._newer.add(version)
            got = f"{version} of a newer higgs-audio-trainer, as perhaps in more lines; check the log with that version"
            yield Violation(line.where, "$.v", str(SCHEMA_VERSION), got, "unknown")

    def _unknown_fields(self, line: LogLine) -> Iterator[Violation]:
        if line.record["event"] not in EVENTS:
            return
        for name in line.event.extra:
            key = (line.record["event"], name)
            if name not in MARKS and key not in self._unknown and len(self._unknown) < _MOST_NAMES:
                self._unknown.add(key)
                yield Violation(
                    line.where,
                    f"$.{name}",
                    f"a field of {key[0]}",
                    "a field unknown to this version; a processor of the run may have added the field, or a newer "
                    "version may have written the line",
                    "unknown",
                    "note",
                )


def _event_of(record: Record) -> Any:
    """Return the typed event of a record; None for a plain record, whose typed event gives no further information."""
    return None if is_plain(record) else typed(record)


def _key_of(record: Record, default: _Key) -> _Key:
    rank, attempt = int_field(record, "rank"), int_field(record, "attempt")
    return default[0] if rank is None else rank, default[1] if attempt is None else attempt
