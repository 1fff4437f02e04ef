"""A log of a comparison, readable several times, from files, standard input or records."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import orjson

from higgs_audio_trainer.errors import InputProblem, UserError
from higgs_audio_trainer.events import VOLATILE_EVENTS
from higgs_audio_trainer.logs.diff.comparison import ComparedLog
from higgs_audio_trainer.logs.diff.join import ComparedEvent
from higgs_audio_trainer.logs.diff.selection import drop_volatile, volatile_settings
from higgs_audio_trainer.logs.diff.sorter import no_room
from higgs_audio_trainer.logs.light_check import LightCheck
from higgs_audio_trainer.logs.lines import LogLine, OnProblem, int_field
from higgs_audio_trainer.logs.reader import marked_lines
from higgs_audio_trainer.logs.run_filter import NoSuchRunError, OnNotice
from higgs_audio_trainer.logs.runs import SelectedLog, is_read_once, of_run, selected, warn
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
        run: Id of the run to read, or the beginning of the id.
        may_lack_run: Whether a log without the run is read without a wanted run.
        on_notice: Receives each message about the log, as for `read`.

    Attributes:
        name: Path of the log, or "records".
        lacks_run: Error of a log without the run; None for a log with the run.

    Raises:
        UserError: The log cannot be read, or a record is invalid.
    """

    def __init__(
        self,
        log: Log,
        on_problem: OnProblem,
        run: str | None = None,
        *,
        may_lack_run: bool = False,
        on_notice: OnNotice | None = None,
    ) -> None:
        self.lacks_run: NoSuchRunError | None = None
        self._on_problem = on_problem
        self._check = LightCheck()
        self._reported = 0
        self._copy: Path | None = None
        self._records: list[Record] | None = None
        self._logs: list[SelectedLog] = []
        self._say = on_notice or warn
        if isinstance(log, (str, Path)):
            self.name = str(log)
            path = path_of(log)
            if is_read_once(path):
                self._copy = path = _copied(path)
        else:
            self.name = _RECORDS
            self._records = [_as_read(index, record) for index, record in enumerate(log)]
            path = Path()
        try:
            self._select(path, run)
        except NoSuchRunError as error:
            self.lacks_run = error
            if not may_lack_run:
                self.close()
                raise
            self._select(path, None)
        except UserError:
            self.close()
            raise
        self._forget()

    def _select(self, path: Path, run: str | None) -> None:
        """Choose the run of the log."""
        if self._records is None:
            self._logs = selected([path], run, lambda text: self._say(self._with_name(text)))
        else:
            self._records = of_run(self._records, run, self._say, name=_RECORDS)

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
        """Yield the events from the beginning, in the reader's order, without volatile events."""
        self._forget()
        lowest: int | None = None
        highest = 0
        for record, place in self._read():
            if record["event"] in VOLATILE_EVENTS:
                continue
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
            return (
                (line.record, line)
                for log in self._logs
                for line, is_current in marked_lines(log, self._fault, keep_invalid=True, event_of=self._check.event_of)
                if is_current
            )
        return ((dict(record), index) for index, record in enumerate(self._records))

    def _fault(self, fault: InputProblem) -> None:
        self._faults += 1
        if self._faults > self._reported:
            self._reported = self._faults
            self._on_problem(fault._replace(where=self._with_name(fault.where)))

    def _with_name(self, text: str) -> str:
        """Return a text with the name of the log in place of the name of its copy."""
        return text if self._copy is None else text.replace(str(self._copy), self.name, 1)


def _as_read(index: int, record: Mapping[str, Any]) -> Record:
    """Copy a record with the values of a reader: lists for tuples, null for NaN."""
    try:
        copy = orjson.loads(orjson.dumps(dict(record)))
    except TypeError as error:
        raise UserError(f"{_RECORDS}[{index}]: expected a record of builtins, got: {error}") from error
    if not isinstance(copy, dict) or not isinstance(copy.get("event"), str):
        raise UserError(f"{_RECORDS}[{index}]: expected a record with an event name, got {record!r:.80}")
    return copy


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
