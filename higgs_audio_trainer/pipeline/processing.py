"""The user's processors as one guarded link of the chain. No processor can cost an event or break the numbering."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args

import structlog

from higgs_audio_trainer.events import Envelope, Level, RunEnd, RunStart, SinkRecovered
from higgs_audio_trainer.pipeline.description import describe
from higgs_audio_trainer.pipeline.json_values import MAX_DEPTH
from higgs_audio_trainer.pipeline.processors import NamedProcessor, Processor, named_processors

EventDict = structlog.typing.EventDict

#: Fields by which readers order and join lines. No processor changes these fields.
PROTECTED_FIELDS = ("event", "v", "run_id", "attempt", "rank", "seq")
#: Events that a processor cannot drop: the first and the last line of a file, and the account of lost lines.
UNDROPPABLE_EVENTS = frozenset({RunStart.name, RunEnd.name, SinkRecovered.name})

_ENVELOPE_NAMES = tuple(item.name for item in fields(Envelope))
_TIME = re.compile(next(item.metadata["pattern"] for item in fields(Envelope) if item.name == "ts"))
_LEVELS = get_args(Level)
_ACCOUNT = tuple(item.name for item in fields(SinkRecovered))
_MISSING = object()


class ProcessorChain:
    """Processors in order, as one structlog processor. Raises nothing but `DropEvent` and `KeyboardInterrupt`.

    Each processor gets a copy of the event, nested lists and mappings included. If the processor raises or returns no
    mapping, the event continues as before. A changed `PROTECTED_FIELDS` value is restored, and so is a `ts` or `level`
    that no reader understands. Each is a failure of the processor. `DropEvent` drops the event, except for
    `UNDROPPABLE_EVENTS`, where a drop has no effect.

    Args:
        processors: Callables with structlog's signature. The event's level is the method name for the processors.
        fail: Takes the source and the error of each failure.

    Attributes:
        sources: Source of failures of each processor: `processor NAME`.

    Raises:
        UserError: The log cannot work with a processor.

    Example:
        >>> chain = ProcessorChain([lambda logger, level, event_dict: event_dict | {"seq": 9, "host": "a"}], print)
        >>> envelope = {"event": "checkpoint", "v": 1, "run_id": "r", "attempt": 0, "rank": 0, "seq": 3}
        >>> processed = chain(None, "msg", envelope | {"ts": "2026-01-02", "level": "info"})
        processor higgs_audio_trainer.pipeline.processing.<lambda> expected seq to stay 3, got 9
        >>> processed["seq"], processed["host"]
        (3, 'a')
    """

    def __init__(
        self, processors: Iterable[Processor | NamedProcessor], fail: Callable[[str, BaseException], None]
    ) -> None:
        self._links = [(f"processor {name}", process) for name, process in named_processors(processors)]
        self._fail = fail
        self.sources = tuple(source for source, _ in self._links)

    def __call__(self, logger: Any, _method: str, record: EventDict) -> EventDict:
        """Return an event as the processors leave the event.

        Raises:
            structlog.DropEvent: A processor drops the event.
        """
        event, level = record["event"], record["level"]
        names = PROTECTED_FIELDS + _ACCOUNT if event == SinkRecovered.name else PROTECTED_FIELDS
        protected = {name: record[name] for name in names}
        for source, process in self._links:
            try:
                processed = _as_dict(process(logger, level, _copy_containers(record, {}, 0)))
            except KeyboardInterrupt:
                raise  # the user's interruption, not the processor's failure
            except structlog.DropEvent:
                if event not in UNDROPPABLE_EVENTS:
                    raise
            except BaseException as error:  # noqa: BLE001 - a processor that exits must not end the training
                self._fail(source, error)
            else:
                changes = [_restore_invalid(processed, record), _restore(processed, protected)]
                if any(changes):
                    self._fail(source, ValueError(next(filter(None, changes))))
                record = processed
        # A processor may return the fields in another order; every line begins with the envelope.
        return {name: record[name] for name in _ENVELOPE_NAMES} | dict(record)


def _as_dict(returned: Any) -> EventDict:
    if not isinstance(returned, Mapping):
        got = "None. Is `return event_dict` missing?" if returned is None else describe(returned)
        raise TypeError(f"expected a mapping from the processor, got {got}")
    return dict(returned)  # a copy, for the processor may keep a reference and change the mapping later


def _restore_invalid(processed: EventDict, record: EventDict) -> str:
    """Put back a time or a level that no reader understands; return a description, empty for valid values.

    A processor may change both fields, for example to the time of another clock.
    """
    change = ""
    time, level = processed.get("ts"), processed.get("level")
    if time != record["ts"] and not (type(time) is str and _TIME.fullmatch(time)):
        change = f"expected ts to be a time like {record['ts']}, got {_described(time)}. Use another field"
        processed["ts"] = record["ts"]
    if not (type(level) is str and level in _LEVELS):
        change = change or f"expected level to be one of {', '.join(_LEVELS)}, got {_described(level)}"
        processed["level"] = record["level"]
    return change


def _described(value: Any) -> str:
    return repr(value) if value is None or type(value) in (int, float, str) else describe(value)


def _restore(processed: EventDict, expected: Mapping[str, Any]) -> str:
    """Put changed fields back; return a description of the first change, empty if no field changed."""
    change = ""
    for name, value in expected.items():
        got = processed.get(name, _MISSING)
        if got is not value and (type(got) is not type(value) or got != value):
            described = "none" if got is _MISSING else _described(got)
            change = change or f"expected {name} to stay {value!r}, got {described}"
            processed[name] = value
    return change


def _copy_containers(value: Any, copies: dict[int, Any], depth: int) -> Any:
    """Return a value with new dicts and lists at every depth, for a processor to change.

    Other values are shared. Containers below `MAX_DEPTH` are shared too, because no line holds such a container.

    Args:
        value: A value of an event.
        copies: Copies by the identity of the original, for shared and cyclic containers.
        depth: Number of containers around the value.
    """
    kind = type(value)
    if not issubclass(kind, (dict, list, tuple)) or depth > MAX_DEPTH:
        return value
    if id(value) in copies:
        return copies[id(value)]
    # The builtin's own method copies in one piece: another thread may change the container.
    if issubclass(kind, dict):
        mapping = copies[id(value)] = dict(dict.items(value))
        for key, item in mapping.items():
            mapping[key] = _copy_containers(item, copies, depth + 1)
        return mapping
    if issubclass(kind, list):
        items = copies[id(value)] = list.copy(value)
        items[:] = [_copy_containers(item, copies, depth + 1) for item in items]
        return items
    if kind is tuple and any(isinstance(item, (dict, list, tuple)) for item in value):
        return tuple(_copy_containers(item, copies, depth + 1) for item in value)
    return value
