"""Goldens: a run's events in one order, without what two runs may differ in. The same run gives the same bytes."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from higgs_audio_trainer.errors import InputProblem, UserError
from higgs_audio_trainer.events import EVENTS, Envelope
from higgs_audio_trainer.logs.diff.join import canonical_order_of, sortable
from higgs_audio_trainer.logs.diff.sides import Log, Source
from higgs_audio_trainer.logs.diff.sorter import Sorter
from higgs_audio_trainer.logs.diff.windows import WINDOW_FIELDS, WINDOWS
from higgs_audio_trainer.logs.lines import LONGEST_LINE, object_of
from higgs_audio_trainer.logs.source import STDIN
from higgs_audio_trainer.logs.typed import Misfit, Record

_ENVELOPE = tuple(item.name for item in fields(Envelope))
_COMPRESSED = (".gz", ".zst")
_COMPLETED = "completed"  # the reason of a `run_end`
_PUBLIC = 0o666  # less what the umask takes: goldens are committed, and others read them


def write_golden(log: Log, path: str | Path, *, finished: bool = False) -> int:
    """Write the events of a log as a golden, in the place of the one that may be there.

    The file is complete or not written at all. Memory does not grow with the log.

    Args:
        log: a path as for `read`, or records.
        path: of the golden; folders on the way are made.
        finished: refuse a log in which a rank has no `run_end`, or one with another reason than `completed`: that run
            was stopped, or goes on.

    Returns:
        number of events written.

    Raises:
        UserError: the log is no model to follow: it has lines that hold no event, or no event at all, or is not
            finished; or a file cannot be read or written; or what is at the golden's place is none.
    """
    target = _target(Path(path), log)
    faults: list[InputProblem] = []
    with Source(log, faults.append) as source, closing(Sorter(canonical_order_of)) as lines:
        started: dict[Any, Any] = {}
        ended: dict[Any, Any] = {}
        count = 0
        for entry in source.entries():
            if faults:
                break
            rank = sortable(entry.record.get("rank"))
            started[rank] = entry.record.get("rank")
            if entry.record["event"] == "run_end":
                ended[rank] = entry.record.get("reason")
            lines.add(entry.record, encode(entry.record))
            count += 1
        _refuse_faulty(source.name, faults, count)
        if finished:
            _refuse_unfinished(source.name, started, ended)
        _replace(target, (line for _, line in lines))
    return count


def encode(record: Record) -> bytes:
    """Encode an event without its volatile fields as a golden has it: fields in the order of their types, then others.

    Args:
        record: the event, which has no volatile field.

    Returns:
        a line, without the newline.
    """
    return orjson.dumps(_arranged(record, _field_order(record["event"]) or _ENVELOPE, windows=True))


def _arranged(record: Record, order: Iterable[str], *, windows: bool = False) -> Record:
    names = dict.fromkeys((*(name for name in order if name in record), *sorted(record)))
    return {name: _value(record[name], windows and name in WINDOWS) for name in names}


def _value(value: Any, is_window: bool = False) -> Any:
    if isinstance(value, dict):
        return _arranged(value, WINDOW_FIELDS if is_window else ())
    return [_value(item) for item in value] if isinstance(value, list) else value


def _field_order(event: str) -> tuple[str, ...]:
    return _field_orders().get(event, ())


@cache
def _field_orders() -> dict[str, tuple[str, ...]]:
    return {name: (*_ENVELOPE, *(item.name for item in fields(cls))) for name, cls in EVENTS.items()}


def _refuse_faulty(name: str, faults: list[InputProblem], count: int) -> None:
    if faults:
        raise UserError(
            f"{faults[0]}. A golden is made of a log that is whole. `higgs-audio-trainer validate` lists its faults"
        )
    if not count:
        raise UserError(f"{name}: expected events, for a golden; got none. Name the log of a run")


def _refuse_unfinished(name: str, started: Mapping[Any, Any], ended: Mapping[Any, Any]) -> None:
    """Refuse a run in which a rank, by its sort key, did not come to its end."""
    for key, rank in started.items():
        if key not in ended:
            raise UserError(
                f"{name}: expected a run that ended, for a golden; got no run_end of rank {rank}. "
                "Wait for its end, or run it again"
            )
        if ended[key] != _COMPLETED:
            raise UserError(
                f"{name}: expected a run that {_COMPLETED}, for a golden; got a run_end of rank {rank} whose reason is "
                f"{ended[key]}. Resume it, or run it again"
            )


def _target(path: Path, log: Log) -> Path:
    """Return the file that a golden of a log is written to; a link stays one."""
    try:
        _refuse_special(path)
        target = path.resolve()
        if isinstance(log, (str, Path)) and _is_same(target, log):
            raise UserError(f"{path}: expected another file than the log, got {log} twice. Name a .jsonl file")
        if target.exists() and target.stat().st_size:
            _refuse_other(path)
    except (OSError, RuntimeError) as error:  # links that lead in a circle are a RuntimeError
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: expected a place for a golden, got: {why or error}. Name a .jsonl file") from error
    return target


def _is_same(target: Path, log: str | Path) -> bool:
    with suppress(OSError):  # one of them is not there, and whoever reads it says so
        return target.samefile(log)
    return False


def _refuse_other(path: Path) -> None:
    """Refuse to write over a file that is no golden."""
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
    record = object_of(line)
    if isinstance(record, Misfit):
        got = "a line that is no event"
    elif of_a_log := [name for name in ("seq", "ts") if name in record]:
        got = f"a log, whose events have {of_a_log[0]}"
    else:
        return
    raise UserError(f"{path}: expected a golden or no file, got {got}; remove it first if you mean it")


def _refuse_special(path: Path) -> None:
    if path.suffix in _COMPRESSED:
        raise UserError(f"{path}: expected a golden that is not compressed, got {path.suffix}. Name a .jsonl file")
    special = path.exists() and not path.is_file()
    if special or path == STDIN:
        what = "a folder" if path.is_dir() else "a device or a pipe" if special else "standard input"
        raise UserError(f"{path}: expected a golden file, got {what}. Name a .jsonl file; it need not be there yet")


def _replace(target: Path, lines: Iterator[bytes]) -> None:
    """Write lines to a file beside the target, and put it there once it is on the disk."""
    hint = "It is as it was" if target.exists() else "Name another file"
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            stack.callback(Path(name).unlink, missing_ok=True)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(line + b"\n" for line in lines)
                file.flush()
                os.fchmod(file.fileno(), _mode(target))
                os.fsync(file.fileno())
            Path(name).replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise UserError(
                f"{target}: expected a golden that can be written, got: {error.strerror or error}. {hint}"
            ) from error


def _mode(target: Path) -> int:
    with suppress(OSError):
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return _PUBLIC & ~umask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
