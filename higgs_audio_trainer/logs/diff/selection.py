"""Which events and fields of two logs are compared: not those that two runs may differ in, not those left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EVENTS, VOLATILE_FIELDS, Envelope
from higgs_audio_trainer.logs.diff.windows import WINDOW_FIELDS, WINDOWS
from higgs_audio_trainer.logs.typed import MARKS, Record

UNKNOWN = "extra"  # `extra.x` is the field or event x, which this version does not know
#: What these hold is not known beforehand.
_FREE = ("config", "versions", "evidence", "samples", "masked", "supervised", "diagnoses", UNKNOWN)
_JOINED_BY = ("event", "split", "rank", "modality", "code", "fingerprint", "codebook")  # and step, but for `run_end`
_MOST_EVENTS = 1_000  # whose names are remembered


def _nested(paths: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Sort dotted paths by what stands before the dot."""
    heads = {path.partition(".")[0] for path in paths if "." in path}
    return {head: frozenset(path[len(head) + 1 :] for path in paths if path.startswith(f"{head}.")) for head in heads}


_VOLATILE = tuple(sorted(name for name in VOLATILE_FIELDS if "." not in name))
_VOLATILE_WITHIN = _nested(VOLATILE_FIELDS)


def drop_volatile(record: Record) -> None:
    """Take the fields out of a record that two runs may differ in."""
    for name in _VOLATILE:
        record.pop(name, None)
    for name, inner in _VOLATILE_WITHIN.items():
        value = record.get(name)
        if isinstance(value, dict):
            record[name] = {key: item for key, item in value.items() if key not in inner}


def volatile_settings(record: Record) -> dict[str, Any]:
    """Return what a `run_start` says of places and hosts, by dotted path: fit for a note, no reason to differ."""
    config = record.get("config")
    settings = config if isinstance(config, dict) else {}
    within = _VOLATILE_WITHIN.get("config", frozenset())
    found = {f"config.{name}": settings[name] for name in sorted(within) if name in settings}
    return found | {name: record[name] for name in ("host",) if name in record}


class Selection:
    """What is compared beside the volatile fields, which never are.

    A name is that of an event (`checkpoint`), a field (`loss`), a field of one event (`train_step.loss`), or of what a
    field holds (`config.lr`, `first.predictions`). `extra.x` is x, where this version does not know it.

    Args:
        ignore: names that are left out.
        only: names that are compared, if any are given; all others are left out. Events of other names are left out
            where `only` names nothing but events.

    Raises:
        UserError: a name is none.
    """

    def __init__(self, ignore: Collection[str] = (), only: Collection[str] = ()) -> None:
        for flag, names in (("--ignore", ignore), ("--only", only)):
            for name in sorted(names):
                _check(flag, name)
        self._ignore = frozenset(name.removeprefix(f"{UNKNOWN}.") for name in ignore)
        self._only = frozenset(name.removeprefix(f"{UNKNOWN}.") for name in only)
        self._only_events = bool(self._only) and all(self._is_event(name) for name in self._only)
        self._paths: dict[str, tuple[frozenset[str], frozenset[str] | None]] = {}
        self.takes_all = not ignore and not only

    def _is_event(self, name: str) -> bool:
        return name.partition(".")[0] in EVENTS

    def takes(self, event: str) -> bool:
        """Tell whether events of a name are compared at all."""
        if event in self._ignore:
            return False
        return not self._only_events or any(name.partition(".")[0] == event for name in self._only)

    def of(self, record: Record) -> Record:
        """Return what of a record is compared."""
        if self.takes_all:
            return record
        ignore, only = self._paths_of(record["event"])
        kept = record if only is None else _with_only(record, only)
        return _without(kept, ignore) if ignore else kept

    def _paths_of(self, event: str) -> tuple[frozenset[str], frozenset[str] | None]:
        """Return the paths that are ignored in an event, and those alone compared: None for all."""
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
    """Refuse a name that is none, and say which is meant."""
    head, dot, rest = name.partition(".")
    if name in names() or (dot and rest and (head in _FREE or (head in EVENTS and rest.split(".")[0] in _FREE))):
        if flag == "--only" and (name in VOLATILE_FIELDS or (head in EVENTS and rest in VOLATILE_FIELDS)):
            raise UserError(f"{flag}: expected a field that is compared, got {name!r}, which differs from run to run")
        if flag == "--ignore" and (rest if head in EVENTS else name) in _JOINED_BY:
            raise UserError(
                f"{flag}: expected a field that is compared, got {name!r}, which events are joined by: without it "
                "nothing tells what belongs together. Ignore the events that differ in it, by name"
            )
        return
    hint = suggestion(name, names()) or " `higgs-audio-trainer schema` has the names."
    raise UserError(
        f"{flag}: expected the name of an event or a field, got {name!r}.{hint} "
        f"What this version does not know is named {UNKNOWN}.NAME"
    )


@cache
def names() -> frozenset[str]:
    """Name every event, every field, `event.field`, and the fields of a window."""
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
