"""A log of a comparison, readable several times, from files, standard input or records."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import orjson

from higgs_audio_trainer.errors import InputProblem, UserError
from higgs_audio_trainer.logs.diff.comparison import ComparedLog
from higgs_audio_trainer.logs.diff.join import ComparedEvent
from higgs_audio_trainer.logs.diff.selection import drop_volatile, volatile_settings
from higgs_audio_trainer.logs.diff.sorter import no_room
from higgs_audio_trainer.logs.lines import LogLine, OnProblem, int_field
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.logs.source import STDIN, path_of, unreadable
from higgs_audio_trainer.logs.typed import Record

Log = str | Path | Iterable[Mapping[str, Any]]
_RECORDS = "records"
_BLOCK_BYTES = 2**20


class Source:
    """A log readable several times. Call `close` at the end.

    Args:
        log: Path as for `read`, or records. Input readable only once, such as standard input, is copied to a temporary
            file. Records are copied, too.
        on_problem: Receives each invalid line once. Invalid lines with an event name are entries, too.

    Attributes:
        name: Path of the log, or "records".

    Raises:
        UserError: The log cannot be read, or a record is invalid.
    """

    def __init__(self, log: Log, on_problem: OnProblem) -> None:
        self._on_problem = on_problem
        self._reported = 0
        self._copy: Path | None = None
        self._records: list[Record] | None = None
        self._path = Path()
        if isinstance(log, (str, Path)):
            self.name = str(log)
            self._path = path_of(log)
            if _can_be_read_once(self._path):
                self._copy = self._path = _copied(self._path)
        else:
            self.name = _RECORDS
            self._records = [_as_read(index, record) for index, record in enumerate(log)]
        self._forget()

    def _forget(self) -> None:
        self._faults = self._events = 0
        self._run_id: str | None = None
        self._steps: tuple[int, int] | None = None
        self._settings: tuple[Any, dict[str, Any]] | None = None

    def close(self) -> None:
        """Delete the temporary file."""
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the source."""
        self.close()

    def entries(self) -> Iterator[ComparedEvent]:
        """Yield the events from the beginning, in the reader's order."""
        self._forget()
        lowest: int | None = None
        highest = 0
        for record, place in self._read():
            if record["event"] == "run_start":
                self._take_settings(record)
            if self._run_id is None and isinstance(run_id := record.get("run_id"), str):
                self._run_id = run_id
            drop_volatile(record)
            try:
                encoded = orjson.dumps(record)
            except TypeError:  # nested deeper than orjson writes, but not deeper than orjson reads
                where = place.where if isinstance(place, LogLine) else f"{_RECORDS}[{place}]"
                self._fault(InputProblem(where, "$", "values nested at most 250 levels deep", "deeper values"))
                continue
            step = int_field(record, "step")
            if step is not None:
                lowest, highest = (step, step) if lowest is None else (min(lowest, step), max(highest, step))
                self._steps = (lowest, highest)
            self._events += 1
            yield ComparedEvent(step, record, encoded)

    def settings(self) -> dict[str, Any]:
        """Return folders and host from the `run_start` of the lowest rank, among the events read so far."""
        return self._settings[1] if self._settings else {}

    def compared_log(self) -> ComparedLog:
        """Return the summary of the events read so far."""
        first, last = self._steps or (None, None)
        return ComparedLog(self.name, self._run_id, self._events, self._faults, first, last)

    def _take_settings(self, record: Record) -> None:
        rank = int_field(record, "rank")
        key = (rank is None, rank or 0)
        if self._settings is None or key < self._settings[0]:
            self._settings = key, volatile_settings(record)

    def _read(self) -> Iterator[tuple[Record, LogLine | int]]:
        if self._records is None:
            return ((line.record, line) for line in read_lines(self._path, on_problem=self._fault, keep_invalid=True))
        return ((dict(record), index) for index, record in enumerate(self._records))

    def _fault(self, fault: InputProblem) -> None:
        self._faults += 1
        if self._faults > self._reported:
            self._reported = self._faults
            if self._copy is not None:
                fault = fault._replace(where=fault.where.replace(str(self._copy), self.name, 1))
            self._on_problem(fault)


def _as_read(index: int, record: Mapping[str, Any]) -> Record:
    """Copy a record with the values of a reader: lists for tuples, null for NaN."""
    try:
        copy = orjson.loads(orjson.dumps(dict(record)))
    except TypeError as error:
        raise UserError(f"{_RECORDS}[{index}]: expected a record of builtins, got: {error}") from error
    if not isinstance(copy, dict) or not isinstance(copy.get("event"), str):
        raise UserError(f"{_RECORDS}[{index}]: expected a record with an event name, got {record!r:.80}")
    return copy


def _can_be_read_once(path: Path) -> bool:
    if path == STDIN:
        return True
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _copied(path: Path) -> Path:
    """Copy input readable only once to a temporary file, without decompression."""
    import tempfile  # slow to import, and unused for files

    try:
        descriptor, name = tempfile.mkstemp(prefix="higgs-audio-trainer-", suffix=".jsonl")
    except OSError as error:
        raise no_room(error) from error
    with ExitStack() as stack:
        stack.callback(Path(name).unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as target:
            for block in _blocks(path):
                try:
                    target.write(block)
                    target.flush()
                except OSError as error:
                    raise no_room(error) from error
        stack.pop_all()
    return Path(name)


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with sys.stdin.buffer if path == STDIN else path.open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                yield block
    except OSError as error:
        raise unreadable(path, error) from error
