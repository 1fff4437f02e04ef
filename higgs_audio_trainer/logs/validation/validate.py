"""A log held against its contract: the schema of each line, and what lines must be to each other.

All attempts are looked at, each file in its own order, line by line: memory does not grow with the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from higgs_audio_trainer.errors import InputProblem
from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION
from higgs_audio_trainer.logs.files import Stream, find, named
from higgs_audio_trainer.logs.gaps import may_begin_late
from higgs_audio_trainer.logs.lines import Line, LogFile, where, whole
from higgs_audio_trainer.logs.typed import MARKS, Record, excused, typed
from higgs_audio_trainer.logs.validation.consistency import contradictions, inconsistencies
from higgs_audio_trainer.logs.validation.finding import Finding, Kind
from higgs_audio_trainer.logs.validation.members import repeated_member
from higgs_audio_trainer.logs.validation.stream_check import StreamCheck
from higgs_audio_trainer.logs.validation.strict import is_plain, misfit

_MOST_FAULTS = 100  # between two lines that hold an event; further ones are counted
_MOST_NAMES = 100  # of unknown fields
_TOLD_APART = ("ts", "run_id", "attempt", "seq")  # what no line of a golden has
_Key = tuple[int, int]  # rank and attempt


def validate(*paths: str | Path) -> Validation:
    """Look for faults in logs: iterate over what is returned, and read its counts afterwards.

    Args:
        paths: as for `read`.

    Raises:
        UserError: there is no log at a path; or, while it is iterated, a file cannot be read.
    """
    return Validation(find(paths))


class Validation:
    """Findings, found while they are iterated over; and counts of what was looked at so far.

    Attributes:
        events: lines that hold an event.
        ranks: which there are.
        attempts: which there are.
        kinds: errors by their kind.
        notes: how many.
        has_noted_gaps: there are gaps that are explained.
        is_golden: whether it is a golden, whose lines have no field that two runs may differ in.

    Args:
        logs: the files of each log.
    """

    def __init__(self, logs: Sequence[Sequence[Stream]]) -> None:
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
        """How many findings are errors."""
        return self.kinds.total()

    def __iter__(self) -> Iterator[Finding]:
        self._reset()  # whoever iterates once more counts anew
        for finding in chain.from_iterable(_Log(log, self).findings() for log in self._logs):
            if finding.severity == "note":
                self.notes += 1
                self.has_noted_gaps = self.has_noted_gaps or finding.kind == "gap"
            else:
                self.kinds[finding.kind] += 1
            yield finding


class _Log:
    """One log: what its files have in common."""

    def __init__(self, log: Sequence[Stream], counts: Validation) -> None:
        self._log = log
        self._counts = counts
        self._run_id: str | None = None
        self._is_golden: bool | None = None  # not known before the first line
        self._unknown: set[tuple[str, str]] = set()

    def findings(self) -> Iterator[Finding]:
        last = max(stream.attempt for stream in self._log)
        yield from _missing_attempts(self._log)
        for stream in self._log:
            if named(stream.files[0]) is None:
                yield from self._joined(stream.files[0])
            else:
                yield from self._named(stream, is_last=stream.attempt == last)

    def _named(self, stream: Stream, *, is_last: bool) -> Iterator[Finding]:
        """Check files whose names say of which rank and attempt they are."""
        check = StreamCheck(begins_late=may_begin_late(stream.files[0]))
        said: _Key | None = None
        size = 0
        for path in stream.files:
            check.begin_file()
            faults = _Faults()
            for line in LogFile(path, faults, event_of=_event_of).lines():
                if faults.count:
                    yield from self._faults(faults, check)
                size += 1
                if size == 1 and self._begins_golden(line.record):
                    check = StreamCheck(is_golden=True)
                key = _key_of(line.record, (stream.rank, stream.attempt))
                if key not in (said, (stream.rank, stream.attempt)):
                    yield _misnamed(line, stream, key)
                if said is None:
                    self._counts.ranks.add(stream.rank)
                    self._counts.attempts.add(stream.attempt)
                said = key
                yield from self._line(line, check, after_fault=faults.count > 0 and faults.is_at_head)
                faults.is_at_head = False
            yield from self._faults(faults, check)
            size += faults.count
        if size == 0:
            yield _empty(stream.files[0], is_last=is_last)
        yield from check.end(is_last=is_last)

    def _joined(self, path: Path) -> Iterator[Finding]:
        """Check a file that may hold the lines of several ranks and attempts, as `merge` writes it."""
        checks: dict[_Key, StreamCheck] = {}
        check = StreamCheck(is_joined=True)  # of the lines before the first that says whose it is
        faults = _Faults()
        for line in LogFile(path, faults, event_of=_event_of).lines():
            if faults.count:
                yield from self._faults(faults, check)
            is_golden = not checks and self._begins_golden(line.record)
            key = _key_of(line.record, (0, 0))
            if key not in checks:
                checks[key] = check if not checks and not is_golden else self._new_check()
            check = checks[key]
            self._counts.ranks.add(key[0])
            self._counts.attempts.add(key[1])
            yield from self._line(line, check, after_fault=faults.count > 0 and faults.is_at_head)
            faults.is_at_head = False
        yield from self._faults(faults, check)
        if not checks and not faults.count:
            yield _empty(path, is_last=True)
        last = max((attempt for _, attempt in checks), default=0)
        for (_, attempt), each in checks.items() or [((0, 0), check)]:
            yield from each.end(is_last=attempt == last, may_be_part=attempt != last)

    def _new_check(self) -> StreamCheck:
        return StreamCheck(is_golden=self._is_golden or False, is_joined=True)

    def _begins_golden(self, first: Record) -> bool:
        self._is_golden = not any(name in first for name in _TOLD_APART)
        self._counts.is_golden = self._counts.is_golden or self._is_golden
        return self._is_golden

    def _faults(self, faults: _Faults, check: StreamCheck) -> Iterator[Finding]:
        for fault in faults.taken():
            kind: Kind = "line" if fault.field == "$" else "schema"
            yield from check.faulty(Finding(fault.where, fault.field, fault.expected, fault.got, kind))
        if more := faults.take_more():
            yield Finding(more[0], "$", "lines that hold an event", f"{more[1]:,} more that hold none", "line")

    def _line(self, line: Line, check: StreamCheck, *, after_fault: bool) -> Iterator[Finding]:
        if check.is_repeated(line):
            return
        self._counts.events += 1
        found = self._alone(line, check)
        yield from found
        if line.record.get("run_id") != self._run_id:
            yield from self._run(line)
        if line.event is not None and line.event.extra:
            yield from self._unknown_fields(line)
        yield from check.take(line, is_sound=not found, after_fault=after_fault)

    def _alone(self, line: Line, check: StreamCheck) -> list[Finding]:
        """Check a line by itself."""
        record, found = line.record, []
        repeated = repeated_member(line.raw, record)
        if repeated is not None:
            found.append(Finding(line.where, "$", "each member of a JSON object once", f"{repeated!r} twice", "member"))
        event = record["event"]
        start = record if event == "run_start" else check.start
        if line.event is None:  # it is plain
            wrong = contradictions(record, start)
        elif event not in EVENTS or record.get("v") != SCHEMA_VERSION:
            return [*found, _unknown_event(line)]
        elif (misfitting := misfit(record, golden=bool(self._is_golden))) is not None:
            return [*found, Finding(line.where, *misfitting, "schema")]
        else:
            wrong = [item for item in inconsistencies(record, start) if not excused(record, item)]
        return [*found, *(Finding(line.where, *item, "value") for item in wrong)] if wrong else found

    def _run(self, line: Line) -> Iterator[Finding]:
        run_id = line.record.get("run_id")
        if isinstance(run_id, str):
            if self._run_id is not None:
                yield Finding(line.where, "$.run_id", f"{self._run_id!r}, as the line before", repr(run_id), "run_id")
            self._run_id = run_id

    def _unknown_fields(self, line: Line) -> Iterator[Finding]:
        if line.record["event"] not in EVENTS:
            return
        for name in line.event.extra:
            key = (line.record["event"], name)
            if name not in MARKS and key not in self._unknown and len(self._unknown) < _MOST_NAMES:
                self._unknown.add(key)
                yield Finding(
                    line.where,
                    f"$.{name}",
                    f"a field of {key[0]}",
                    "one that this version does not know; a newer one may have written it",
                    "unknown",
                    "note",
                )


class _Faults:
    """Takes the faults of a file between two of its lines: the first of them, and the number of the others.

    Attributes:
        count: all faults of the file.
        is_at_head: no line that holds an event has come yet.
    """

    def __init__(self) -> None:
        self.count = 0
        self.is_at_head = True
        self._kept: list[InputProblem] = []
        self._more: tuple[str, int] | None = None

    def __call__(self, fault: InputProblem) -> None:
        self.count += 1
        if len(self._kept) < _MOST_FAULTS:
            self._kept.append(fault)
        else:
            self._more = (fault.where, 1) if self._more is None else (self._more[0], self._more[1] + 1)

    def taken(self) -> list[InputProblem]:
        kept, self._kept = self._kept, []
        return kept

    def take_more(self) -> tuple[str, int] | None:
        """Return the place of the first that was not kept and how many there were."""
        more, self._more = self._more, None
        return more


def _event_of(record: Record) -> Any:
    """Make the event of a record; none of a plain one, of which it would say nothing more."""
    return None if is_plain(record) else typed(record)


def _key_of(record: Record, default: _Key) -> _Key:
    rank, attempt = whole(record, "rank"), whole(record, "attempt")
    return default[0] if rank is None else rank, default[1] if attempt is None else attempt


def _missing_attempts(log: Sequence[Stream]) -> Iterator[Finding]:
    first_files = {stream.attempt: stream.files[0] for stream in reversed(log)}
    for one, other in pairwise(sorted(first_files)):
        if other > one + 1:
            missing = f"attempt {one + 1}" if other == one + 2 else f"attempts {one + 1} to {other - 1}"
            place = where(first_files[other], 1, 0)
            yield Finding(place, "$.attempt", f"files of {missing} before it", "none", "name", "note")


def _misnamed(line: Line, stream: Stream, key: _Key) -> Finding:
    name = "rank" if key[0] != stream.rank else "attempt"
    expected, got = (stream.rank, key[0]) if name == "rank" else (stream.attempt, key[1])
    return Finding(line.where, f"$.{name}", f"{expected}, as the file's name has it", str(got), "name")


def _unknown_event(line: Line) -> Finding:
    event, newer = line.record["event"], "a newer version may have written it, and must check it"
    if event not in EVENTS:
        return Finding(line.where, "$.event", f"one of {', '.join(EVENTS)}", f"{event!r}: {newer}", "unknown")
    return Finding(line.where, "$.v", str(SCHEMA_VERSION), f"{line.record.get('v')!r}: {newer}", "unknown")


def _empty(path: Path, *, is_last: bool) -> Finding:
    return Finding(
        where(path, 1, 0), "$", "run_start as the first line", "no line", "run_start", "error" if is_last else "note"
    )
