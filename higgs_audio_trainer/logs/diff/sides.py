"""One of two logs that are compared, read as often as needed, whatever it comes from."""

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
from higgs_audio_trainer.logs.diff.comparison import Side
from higgs_audio_trainer.logs.diff.join import Entry
from higgs_audio_trainer.logs.diff.selection import strip, volatile_settings
from higgs_audio_trainer.logs.diff.sorter import no_room
from higgs_audio_trainer.logs.lines import Line, OnFault, whole
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.logs.source import STDIN, path_of, unreadable
from higgs_audio_trainer.logs.typed import Record

Log = str | Path | Iterable[Mapping[str, Any]]
_RECORDS = "records"
_BLOCK_BYTES = 2**20


class Source:
    """A log that can be read several times. Close it.

    Args:
        log: a path as for `read`, or records. What can be read once, such as standard input, is copied to a temporary
            file; records are copied, too.
        on_fault: is told once of each line that holds no event. What is an event by its name alone is an entry as well.

    Attributes:
        name: its path.

    Raises:
        UserError: it cannot be read, or a record is none.
    """

    def __init__(self, log: Log, on_fault: OnFault) -> None:
        self._on_fault = on_fault
        self._told = 0
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
        """Drop the temporary file."""
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def entries(self) -> Iterator[Entry]:
        """Yield the events from the beginning, in the reader's order."""
        self._forget()
        lowest: int | None = None
        highest = 0
        for record, place in self._read():
            if record["event"] == "run_start":
                self._take_settings(record)
            if self._run_id is None and isinstance(run_id := record.get("run_id"), str):
                self._run_id = run_id
            strip(record)
            try:
                encoded = orjson.dumps(record)
            except TypeError:  # more levels than can be written, though not than can be read
                where = place.where if isinstance(place, Line) else f"{_RECORDS}[{place}]"
                self._fault(InputProblem(where, "$", "values that are nested 250 levels deep at most", "deeper ones"))
                continue
            step = whole(record, "step")
            if step is not None:
                lowest, highest = (step, step) if lowest is None else (min(lowest, step), max(highest, step))
                self._steps = (lowest, highest)
            self._events += 1
            yield Entry(step, record, encoded)

    def settings(self) -> dict[str, Any]:
        """Return what the `run_start` of the lowest rank says of folders and hosts; of the events read so far."""
        return self._settings[1] if self._settings else {}

    def side(self) -> Side:
        """Return what is known of it, of the events read so far."""
        first, last = self._steps or (None, None)
        return Side(self.name, self._run_id, self._events, self._faults, first, last)

    def _take_settings(self, record: Record) -> None:
        rank = whole(record, "rank")
        key = (rank is None, rank or 0)
        if self._settings is None or key < self._settings[0]:
            self._settings = key, volatile_settings(record)

    def _read(self) -> Iterator[tuple[Record, Line | int]]:
        if self._records is None:
            return ((line.record, line) for line in read_lines(self._path, on_fault=self._fault, misfits=True))
        return ((dict(record), index) for index, record in enumerate(self._records))

    def _fault(self, fault: InputProblem) -> None:
        self._faults += 1
        if self._faults > self._told:
            self._told = self._faults
            if self._copy is not None:
                fault = fault._replace(where=fault.where.replace(str(self._copy), self.name, 1))
            self._on_fault(fault)


def _as_read(index: int, record: Mapping[str, Any]) -> Record:
    """Copy a record, with its values as a reader has them: lists for tuples, null for NaN."""
    try:
        copy = orjson.loads(orjson.dumps(dict(record)))
    except TypeError as error:
        raise UserError(f"{_RECORDS}[{index}]: expected a record of builtins, got: {error}") from error
    if not isinstance(copy, dict) or not isinstance(copy.get("event"), str):
        raise UserError(f"{_RECORDS}[{index}]: expected a record with the name of its event, got {record!r:.80}")
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
    """Copy what can be read once, as it is: compressed or not."""
    import tempfile  # slow to import, and not needed for a file

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
