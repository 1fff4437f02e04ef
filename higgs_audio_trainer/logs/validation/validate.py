"""Validation of a log: the schema of each line, and the relations between lines.

All attempts are validated, each file in its own order, line by line. Memory does not grow with the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from higgs_audio_trainer.errors import UnreadRest
from higgs_audio_trainer.logs.files import AttemptFiles, parse_name
from higgs_audio_trainer.logs.gaps import may_begin_late
from higgs_audio_trainer.logs.lines import COMPLETE_DATA, LogFile, LogLine, int_field
from higgs_audio_trainer.logs.logged_runs import run_id_of
from higgs_audio_trainer.logs.run_filter import OnNotice
from higgs_audio_trainer.logs.runs import SelectedLog, selected
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.attempt_check import AttemptCheck
from higgs_audio_trainer.logs.validation.attempt_gaps import AttemptGaps, missing_segments
from higgs_audio_trainer.logs.validation.line_check import LineCheck, event_of, violations_of
from higgs_audio_trainer.logs.validation.log_violations import (
    MOST_RUNS,
    empty,
    misnamed,
    other_run,
    too_many_runs,
    without_checksum,
)
from higgs_audio_trainer.logs.validation.neighbours import Neighbours
from higgs_audio_trainer.logs.validation.repeated_facts import RepeatedFacts
from higgs_audio_trainer.logs.validation.skipped_lines import SkippedLines
from higgs_audio_trainer.logs.validation.violation import Kind, Violation

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
        self._last_attempt = max((group.attempt for group in self._log), default=0)
        self._last_attempts = {run.run_id: max(attempt for _, attempt in run.parts) for run in runs}
        self._counts = counts
        self._is_golden: bool | None = None  # unknown before the first line
        self._line_check = LineCheck()
        self._neighbours = Neighbours()
        self._facts = RepeatedFacts()
        self._gaps = AttemptGaps()
        self._beyond: LogLine | None = None  # first line of a run that is not checked

    def violations(self) -> Iterator[Violation]:
        for group in self._log:
            if parse_name(group.files[0]) is None:
                yield from self._joined(group.files[0])
            else:
                yield from self._named(group)
        has_others = not self._takes.takes_every and len(self._takes.others) > 1
        yield from self._gaps.find(() if has_others else self._log)
        if self._beyond is not None:
            yield too_many_runs(self._beyond)
        self._takes.finish(says_versions=False)  # each newer version is a violation

    def _lines(self, path: Path, faults: SkippedLines) -> Iterator[LogLine]:
        """Yield the lines of a file. From the first run beyond the limit on, lines are counted alone."""
        runs: set[str | None] = set()
        for line in LogFile(path, faults, event_of=event_of, takes=self._takes).lines():
            runs.add(run_id_of(line.record))
            if len(runs) <= MOST_RUNS:
                yield line
                continue
            self._counts.events += 1
            self._beyond = self._beyond or line

    def _named(self, group: AttemptFiles) -> Iterator[Violation]:
        """Validate files whose names contain rank and attempt."""
        begins_late = may_begin_late(group.files[0])
        check = AttemptCheck(begins_late=begins_late)
        checks: dict[str | None, AttemptCheck] = {}  # by run
        previous: _Key | None = None
        size = 0
        for path in group.files:
            yield from without_checksum(path)
            for each in checks.values():
                each.begin_file()
            faults = SkippedLines()
            for line in self._lines(path, faults):
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
            yield from missing_segments(group, check)
            self._gaps.add(run_id, group.rank, group.attempt, check)

    def _is_last(self, attempt: int, run_id: str | None) -> bool:
        """Return True if a run has no later attempt. Without lines of the run, the attempts of all files count."""
        return attempt == self._last_attempts.get(run_id, self._last_attempt)

    def _joined(self, path: Path) -> Iterator[Violation]:
        """Validate a file that may hold the lines of several runs, ranks and attempts, as written by `merge`."""
        checks: dict[tuple[str | None, int, int], AttemptCheck] = {}  # by run, rank and attempt
        last: dict[str | None, int] = {}  # highest attempt of each run
        check = AttemptCheck(is_joined=True)  # for lines before the first rank and attempt
        faults = SkippedLines()
        yield from without_checksum(path)
        for line in self._lines(path, faults):
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
        for (run_id, rank, attempt), each in checks.items() or [((None, 0, 0), check)]:
            is_last = attempt == last.get(run_id, 0)
            yield from each.end(is_last=is_last, may_be_part=not is_last)
            self._gaps.add(run_id, rank, attempt, each)

    def _begins_golden(self, first: Record) -> bool:
        self._is_golden = not any(name in first for name in _NOT_IN_GOLDEN)
        self._counts.is_golden = self._counts.is_golden or self._is_golden
        return self._is_golden

    def _faults(self, faults: SkippedLines, check: AttemptCheck) -> Iterator[Violation]:
        for fault in faults.take():
            is_damage = fault.expected == COMPLETE_DATA or isinstance(fault, UnreadRest)
            kind: Kind = "damage" if is_damage else "line" if fault.field == "$" else "schema"
            yield from check.faulty(Violation(fault.where, fault.field, fault.expected, fault.got, kind))
        if more := faults.take_more():
            yield Violation(more[0], "$", "lines with an event", f"{more[1]:,} more lines without an event", "line")

    def _line(self, line: LogLine, check: AttemptCheck, *, after_fault: bool) -> Iterator[Violation]:
        if check.is_repeated(line):
            return
        self._counts.events += 1
        found = violations_of(line, check.start, is_golden=check.is_golden)
        if found or line.event is not None:  # a plain line has nothing to report
            yield from self._line_check.report(line, found)
        yield from check.take(line, is_sound=not found, after_fault=after_fault)
        if found:
            return
        if line.record["event"] == "prediction_sample":
            yield from self._neighbours.take(line, check.start)
        else:
            yield from self._facts.take(line, check.start)


def _key_of(record: Record, default: _Key) -> _Key:
    rank, attempt = int_field(record, "rank"), int_field(record, "attempt")
    return default[0] if rank is None else rank, default[1] if attempt is None else attempt
