"""Runs in the files of a log, told apart by `run_id`, found in one pass over each file.

Lines without a `run_id` are a run of their own if a `run_start` is among them, as in a golden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from higgs_audio_trainer.bounds import MAX_EMPTY_LINES, MAX_INVALID_LINES, MAX_INVALID_PER_EVENT, are_in_force
from higgs_audio_trainer.decompression import damaged_errors
from higgs_audio_trainer.logs.attempts import LoggedAttempt
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.files import AttemptFiles
from higgs_audio_trainer.logs.light_check import LightCheck
from higgs_audio_trainer.logs.lines import LONGEST_LINE, int_field, parse_line
from higgs_audio_trainer.logs.source import opened, unreadable
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.phases import tell

WITHOUT_ID = "none"  # the value of `--run` for lines without a `run_id`, as in a golden
_BLOCK_BYTES = 2**16
_EMPTY_LINES = b"\n" * (MAX_EMPTY_LINES + 2)  # the first newline ends a line with text
#: Members of a line that tell run and attempt apart. The bytes after `attempt` end the number.
_MEMBERS = (re.compile(rb'"run_id":\s*"[^"\\]*"'), re.compile(rb'"attempt":\s*\d+\s*[,}]'))


@dataclass(slots=True)
class LoggedRun:
    """A run of a log.

    Attributes:
        run_id: Id of the run; None for lines without an id, as in a golden.
        begun: Time of the latest `run_start`; of the first event without a `run_start`; None without times.
        parts: Rank and attempt of each group of files with lines of the run.
        attempts: Attempts of the run by number.
        has_start: Whether the run has a `run_start`.
    """

    run_id: str | None
    begun: str | None = None
    parts: set[tuple[int, int]] = field(default_factory=set)
    attempts: dict[int, LoggedAttempt] = field(default_factory=dict)
    has_start: bool = False

    def take(self, record: Record) -> None:
        """Update the time and the attempt with a record of the run."""
        number = attempt_of(record)
        self.attempts.setdefault(number, LoggedAttempt(number)).update(record)
        ts = record.get("ts")
        if not isinstance(ts, str):
            ts = None
        if record["event"] != "run_start":
            self.begun = self.begun or ts
        else:
            self.begun = max(self.begun or "", ts or "") or None if self.has_start else ts
            self.has_start = True

    @property
    def id(self) -> str:
        """Return the value of `--run` for the run."""
        return shown_id(self.run_id)

    def __str__(self) -> str:
        name = f"{WITHOUT_ID} (lines without a run_id)" if self.run_id is None else self.run_id
        return name if self.begun is None else f"{name} (begun {self.begun[:19].replace('T', ' ')})"


def run_id_of(record: Record) -> str | None:
    """Return the id of a record's run; None without an id."""
    run_id = record.get("run_id")
    return run_id if isinstance(run_id, str) else None


def attempt_of(record: Record) -> int:
    """Return the number of a record's attempt; 0 without a number."""
    return int_field(record, "attempt") or 0


def shown_id(run_id: str | None) -> str:
    """Return the value of `--run` for the run with an id."""
    return WITHOUT_ID if run_id is None else run_id


def runs_in(log: Sequence[AttemptFiles]) -> list[LoggedRun]:
    """Return the runs of a log in the order of their first lines.

    Raises:
        UserError: A file cannot be read.
    """
    scan = _Scan()
    for group in log:
        for path in group.files:
            for block in _blocks(path):
                for run in scan.take(block):
                    run.parts.add(group[:2])
                if scan.is_beyond_bound:  # told by readers
                    break
            scan.end_file()
    return told_apart(scan.runs)


def told_apart(runs: Mapping[str | None, LoggedRun]) -> list[LoggedRun]:
    """Return the runs. Lines without a `run_id` are a run if a `run_start` is among them, else stray lines of any run.

    Example:
        >>> [run.run_id for run in told_apart({"a1b2": LoggedRun("a1b2"), None: LoggedRun(None)})]
        ['a1b2']
    """
    strays = runs.get(None)
    if strays is None or strays.has_start or len(runs) == 1:
        return list(runs.values())
    return [run for run in runs.values() if run is not strays]


class _Scan:
    """Finds the runs and attempts of blocks of lines.

    Counts of the last line's `run_id` and `attempt` prove nearly every block to be of one attempt. Only the last of
    such blocks, and all other blocks, are parsed.

    Attributes:
        runs: Runs by id.
    """

    def __init__(self) -> None:
        self.runs: dict[str | None, LoggedRun] = {}
        self._invalid = 0  # lines without an event, as counted by the reader
        self._run: LoggedRun | None = None  # run of the last line
        self._check = LightCheck()
        self._members: tuple[bytes, ...] = ()  # `run_id` and `attempt` of the last line
        self._held = b""  # last block that was not parsed

    def take(self, block: bytes) -> Iterable[LoggedRun]:
        """Return the runs of a block."""
        lines = block.count(b"\n")
        if (
            self._run is not None
            and self._members
            and all(block.count(member) == lines for member in (*self._members, b'"run_id"'))
            and b'"run_start"' not in block
        ):
            self._held = block
            self._invalid = max(0, self._invalid - MAX_INVALID_PER_EVENT * lines)
            return (self._run,)
        self._parse_held()
        return self._parse(block)

    @property
    def is_beyond_bound(self) -> bool:
        """Return True if readers stop at the last block, after too many lines without an event."""
        return self._invalid > MAX_INVALID_LINES and are_in_force()

    def end_file(self) -> None:
        """Parse the last block."""
        self._parse_held()
        self._invalid = 0

    def _parse_held(self) -> None:
        held, self._held = self._held, b""
        self._parse(held)

    def _parse(self, block: bytes) -> list[LoggedRun]:
        found: dict[str | None, LoggedRun] = {}
        for line in filter(None, block.split(b"\n")):
            if len(line) >= LONGEST_LINE:  # as readers do
                continue
            record = parse_line(line)
            if isinstance(record, InvalidField):
                self._invalid += 1
                continue
            self._invalid = max(0, self._invalid - MAX_INVALID_PER_EVENT)
            if self._check(record) is not None:
                continue
            run_id = run_id_of(record)
            self._run = found[run_id] = self.runs.setdefault(run_id, LoggedRun(run_id))
            self._run.take(record)
            members = tuple(member[0] for member in (pattern.search(line) for pattern in _MEMBERS) if member)
            is_of_line = (
                run_id is not None and len(members) == len(_MEMBERS) and members[0].endswith(f'"{run_id}"'.encode())
            )
            self._members = members if is_of_line else ()
        return list(found.values())


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of whole lines. Damaged data ends the blocks, and is reported by readers."""
    rest = b""
    num_bytes = 0
    with opened(path) as file:
        while True:
            try:
                part = file.read1(_BLOCK_BYTES)  # type: ignore[attr-defined]
            except damaged_errors():
                part = b""
            except OSError as error:
                raise unreadable(path, error) from error
            if not part:
                break
            num_bytes += len(part)
            tell(f"finding the runs of {path.name}: {num_bytes >> 20:,} MiB")
            is_at_bound = False
            if are_in_force():
                part, ends, _ = part.partition(_EMPTY_LINES)  # reported by readers
                is_at_bound = bool(ends)
            lines, newline, rest = (rest + part).rpartition(b"\n")
            if newline:
                yield lines + newline
            elif len(rest) > LONGEST_LINE:
                rest = b""
            if is_at_bound:
                break
    if rest:
        yield rest
