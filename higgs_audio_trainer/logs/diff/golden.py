"""Golden files: a run's events in a canonical order without volatile fields. Equal runs give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from higgs_audio_trainer.atomic_file import atomic_file, make_folder
from higgs_audio_trainer.errors import InputProblem, UserError
from higgs_audio_trainer.events import EVENTS, Envelope
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.diff.join import canonical_order_of, sortable
from higgs_audio_trainer.logs.diff.sides import Log, Source
from higgs_audio_trainer.logs.diff.sorter import Sorter
from higgs_audio_trainer.logs.diff.windows import WINDOW_FIELDS, WINDOWS
from higgs_audio_trainer.logs.lines import LONGEST_LINE, parse_line
from higgs_audio_trainer.logs.run_filter import OnNotice
from higgs_audio_trainer.logs.source import STDIN
from higgs_audio_trainer.logs.typed import Record

_ENVELOPE = tuple(item.name for item in fields(Envelope))
_COMPRESSED = (".gz", ".zst")
_COMPLETED = "completed"  # reason in the `run_end` of a finished run


def write_golden(
    log: Log,
    path: str | Path,
    *,
    finished: bool = False,
    run: str | None = None,
    on_notice: OnNotice | None = None,
) -> int:
    r"""Write the events of a log as a golden file, in place of an existing golden file.

    The file is written completely or not at all. Memory does not grow with the log.

    Args:
        log: Path as for `read`, or records.
        path: Path of the golden file. Missing folders are created.
        finished: Refuse a log of an unfinished run: a rank without a `run_end`, or with another reason than
            `completed`.
        run: Id of the run to write, or the beginning of the id. By default the run that began last.
        on_notice: Receives each message about the log, as for `read`.

    Returns:
        Number of events written.

    Raises:
        UserError: The log has invalid lines, no event or an unfinished run; a file cannot be read or written; or the
            path names another file than a golden file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "golden.jsonl"
        ...     count = write_golden([{"step": 10, "event": "checkpoint", "ts": "2026-01-02T03:04:05Z"}], path)
        ...     count, path.read_text()
        (1, '{"event":"checkpoint","step":10}\n')
    """
    target = _target(Path(path), log)
    faults: list[InputProblem] = []
    with Source(log, faults.append, run, on_notice=on_notice) as source, closing(Sorter(canonical_order_of)) as lines:
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
    """Encode an event for a golden file: known fields in the order of their types, then other fields by name.

    Args:
        record: Event without volatile fields.

    Returns:
        JSON of the event, without a newline.

    Example:
        >>> encode({"step": 10, "path": "checkpoint-10", "event": "checkpoint", "zebra": 1, "apple": 2})
        b'{"event":"checkpoint","step":10,"path":"checkpoint-10","apple":2,"zebra":1}'
    """
    return orjson.dumps(_arranged(record, _field_orders().get(record["event"], _ENVELOPE), windows=True))


def _arranged(record: Record, order: Iterable[str], *, windows: bool = False) -> Record:
    names = dict.fromkeys((*(name for name in order if name in record), *sorted(record)))
    return {name: _value(record[name], windows and name in WINDOWS) for name in names}


def _value(value: Any, is_window: bool = False) -> Any:
    if isinstance(value, dict):
        return _arranged(value, WINDOW_FIELDS if is_window else ())
    return [_value(item) for item in value] if isinstance(value, list) else value


@cache
def _field_orders() -> dict[str, tuple[str, ...]]:
    return {name: (*_ENVELOPE, *(item.name for item in fields(cls))) for name, cls in EVENTS.items()}


def _refuse_faulty(name: str, faults: list[InputProblem], count: int) -> None:
    if faults:
        raise UserError(
            f"{faults[0]}. A golden needs a log without invalid lines. "
            "`higgs-audio-trainer validate` lists all problems"
        )
    if not count:
        raise UserError(f"{name}: expected events for a golden, got no event. Name the log of a run")


def _refuse_unfinished(name: str, started: Mapping[Any, Any], ended: Mapping[Any, Any]) -> None:
    """Refuse a run with an unfinished rank.

    Args:
        name: Name of the log.
        started: Number of each rank by the rank's sort key.
        ended: Reason in the `run_end` of each finished rank, by the rank's sort key.
    """
    for key, rank in started.items():
        if key not in ended:
            raise UserError(
                f"{name}: expected a finished run for a golden, got no run_end of rank {rank}. "
                "Wait for the end of the run, or repeat the run"
            )
        if ended[key] != _COMPLETED:
            raise UserError(
                f"{name}: expected a {_COMPLETED} run for a golden, got a run_end of rank {rank} with the reason "
                f"{ended[key]}. Resume the run, or repeat the run"
            )


def _target(path: Path, log: Log) -> Path:
    """Return the file to write. A symbolic link stays a link."""
    try:
        _refuse_special(path)
        target = path.resolve()
        if isinstance(log, (str, Path)) and _is_same(target, log):
            raise UserError(f"{path}: expected another file than the log, got {log} twice. Name a .jsonl file")
        if target.exists() and target.stat().st_size:
            _refuse_other(path)
    except (OSError, RuntimeError) as error:  # circular links raise RuntimeError
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {why or error}. Name a .jsonl file") from error
    return target


def _is_same(target: Path, log: str | Path) -> bool:
    with suppress(OSError):  # a missing file is reported by the reader
        return target.samefile(log)
    return False


def _refuse_other(path: Path) -> None:
    """Refuse to replace a file other than a golden file."""
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
    record = parse_line(line)
    if isinstance(record, InvalidField):
        got = "a line without an event"
    elif of_a_log := [name for name in ("seq", "ts") if name in record]:
        got = f"a log (the events have {of_a_log[0]})"
    else:
        return
    raise UserError(f"{path}: expected a golden or no file, got {got}; remove the file first to replace it")


def _refuse_special(path: Path) -> None:
    if path.suffix in _COMPRESSED:
        raise UserError(f"{path}: expected an uncompressed golden, got {path.suffix}. Name a .jsonl file")
    special = path.exists() and not path.is_file()
    if special or path == STDIN:
        what = "a folder" if path.is_dir() else "a device or a pipe" if special else "standard input"
        raise UserError(f"{path}: expected a golden file, got {what}. Name a new or existing .jsonl file")


def _replace(target: Path, lines: Iterator[bytes]) -> None:
    """Write lines to a temporary file and rename the file to the target."""
    hint = "The file is unchanged" if target.exists() else "Name another file"
    try:
        make_folder(target.parent)
        with atomic_file(target, sync=True) as file:
            file.writelines(line + b"\n" for line in lines)
    except NotADirectoryError as error:
        raise UserError(f"{error.filename}: {error.strerror}. {hint}") from error
    except OSError as error:
        raise UserError(f"{target}: {error.strerror or error}. {hint}") from error
