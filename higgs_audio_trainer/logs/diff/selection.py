"""Selection of compared events and fields: without volatile fields, and without fields left out by the user."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EVENTS, VOLATILE_FIELDS, Envelope
from higgs_audio_trainer.logs.diff.windows import WINDOW_FIELDS, WINDOWS
from higgs_audio_trainer.logs.typed import MARKS, Record

UNKNOWN = "extra"  # `extra.x` is the field or event x, unknown to this version
#: Fields with arbitrary content.
_FREE = ("config", "versions", "evidence", "samples", "masked", "supervised", "diagnoses", UNKNOWN)
#: And step, except in `run_end`.
_JOINED_BY = ("event", "split", "rank", "modality", "code", "probe", "fingerprint", "codebook")
_MOST_EVENTS = 1_000  # size of the cache by event name


def _nested(paths: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Group dotted paths by the part before the first dot.

    Example:
        >>> _nested(["config.lr", "seed"])
        {'config': frozenset({'lr'})}
    """
    heads = {path.partition(".")[0] for path in paths if "." in path}
    return {head: frozenset(path[len(head) + 1 :] for path in paths if path.startswith(f"{head}.")) for head in heads}


_VOLATILE = tuple(sorted(name for name in VOLATILE_FIELDS if "." not in name))
_VOLATILE_WITHIN = _nested(VOLATILE_FIELDS)


def drop_volatile(record: Record) -> None:
    """Remove the volatile fields of a record, in place.

    Example:
        >>> record = {"event": "train_step", "ts": "2026-01-02T03:04:05.000000Z", "step": 10}
        >>> drop_volatile(record)
        >>> record
        {'event': 'train_step', 'step': 10}
    """
    for name in _VOLATILE:
        record.pop(name, None)
    for name, inner in _VOLATILE_WITHIN.items():
        if name in record:
            record[name] = _without_paths(record[name], inner)


def _without_paths(value: Any, paths: Collection[str]) -> Any:
    """Return a value without the members at dotted paths, in each object of a list."""
    if isinstance(value, list):
        return [_without_paths(item, paths) for item in value]
    if not isinstance(value, dict):
        return value
    nested = _nested(paths)
    return {
        name: _without_paths(item, nested[name]) if name in nested else item
        for name, item in value.items()
        if name not in paths
    }


def volatile_settings(record: Record) -> dict[str, Any]:
    """Return the volatile settings of a `run_start`, such as folders and host, by dotted path.

    Reports mention such settings, but they never count as a difference.
    """
    config = record.get("config")
    settings = config if isinstance(config, dict) else {}
    within = _VOLATILE_WITHIN.get("config", frozenset())
    found = {f"config.{name}": settings[name] for name in sorted(within) if name in settings}
    return found | {name: record[name] for name in ("host",) if name in record}


class Selection:
    """Compared events and fields. Volatile fields are never compared.

    A name is an event (`checkpoint`), a field (`loss`), a field of an event (`train_step.loss`), or a member of a field
    (`config.lr`, `first.predictions`). `extra.x` is the name x, unknown to this version.

    Args:
        ignore: Names to leave out.
        only: Names to compare; empty for all. If `only` contains event names alone, other events are left out.

    Raises:
        UserError: A name is invalid.

    Example:
        >>> Selection(only=["train_step.loss"]).of({"event": "train_step", "step": 10, "loss": 2.5})
        {'loss': 2.5}
    """

    def __init__(self, ignore: Collection[str] = (), only: Collection[str] = ()) -> None:
        for flag, names in (("--ignore", ignore), ("--only", only)):
            for name in sorted(names):
                _check(flag, name)
        self._ignore = frozenset(name.removeprefix(f"{UNKNOWN}.") for name in ignore)
        self._only = frozenset(name.removeprefix(f"{UNKNOWN}.") for name in only)
        self._only_events = bool(self._only) and all(name.partition(".")[0] in EVENTS for name in self._only)
        self._paths: dict[str, tuple[frozenset[str], frozenset[str] | None]] = {}
        self.takes_all = not ignore and not only

    def takes(self, event: str) -> bool:
        """Return True if events of a name are compared."""
        if event in self._ignore:
            return False
        return not self._only_events or any(name.partition(".")[0] == event for name in self._only)

    def of(self, record: Record) -> Record:
        """Return the compared fields of a record."""
        if self.takes_all:
            return record
        ignore, only = self._paths_of(record["event"])
        kept = record if only is None else _with_only(record, only)
        return _without(kept, ignore) if ignore else kept

    def _paths_of(self, event: str) -> tuple[frozenset[str], frozenset[str] | None]:
        """Return the ignored paths of an event and the only compared paths, None for all."""
        found = self._paths.get(event)
        if found is None:
            prefix = f"{event}."
            ignore = frozenset(name.removeprefix(prefix) for name in self._ignore)
            only = frozenset(name.removeprefix(prefix) for name in self._only)
            found = ignore, None if not self._only or event in self._only else only
            if len(self._paths) < _MOST_EVENTS:
                self._paths[event] = found
        return found


def _with_only(record: Mapping[str, Any], paths: Collection[str]) -> Record:
    nested = _nested(paths)
    kept: Record = {}
    for name, value in record.items():
        if name in paths:
            kept[name] = value
        elif name in nested and isinstance(value, dict) and (inner := _with_only(value, nested[name])):
            kept[name] = inner
    return kept


def _without(record: Mapping[str, Any], paths: Collection[str]) -> Record:
    nested = _nested(paths)
    return {
        name: _without(value, nested[name]) if name in nested and isinstance(value, dict) else value
        for name, value in record.items()
        if name not in paths
    }


def _check(flag: str, name: str) -> None:
    """Refuse an invalid name and suggest a valid name."""
    head, dot, rest = name.partition(".")
    if name in names() or (dot and rest and (head in _FREE or (head in EVENTS and rest.split(".")[0] in _FREE))):
        if flag == "--only" and (name in VOLATILE_FIELDS or (head in EVENTS and rest in VOLATILE_FIELDS)):
            raise UserError(f"{flag}: expected a compared field, got {name!r}, which differs from run to run")
        if flag == "--ignore" and (rest if head in EVENTS else name) in _JOINED_BY:
            raise UserError(
                f"{flag}: expected a compared field, got {name!r}, which joins the events of the two logs. "
                "Ignore the differing events by name instead"
            )
        return
    hint = suggestion(name, names()) or " `higgs-audio-trainer schema` lists the names."
    raise UserError(
        f"{flag}: expected the name of an event or a field, got {name!r}.{hint} "
        f"Write {UNKNOWN}.NAME for a name unknown to this version"
    )


@cache
def names() -> frozenset[str]:
    """Return the names of all events, fields, `event.field`, and fields of a window.

    Example:
        >>> {"train_step", "loss", "train_step.loss", "first.labels"} <= names()
        True
    """
    return frozenset(_names())


def _names() -> Iterator[str]:
    yield from MARKS
    yield from (path for path in VOLATILE_FIELDS if "." in path)
    envelope = [item.name for item in fields(Envelope)]
    yield from envelope
    for event, cls in EVENTS.items():
        yield event
        inner = [f"{item.name}.{part}" for item in fields(cls) if item.name in WINDOWS for part in WINDOW_FIELDS]
        for name in (*envelope, *MARKS, *(item.name for item in fields(cls)), *inner):
            yield name
            yield f"{event}.{name}"
