"""From a typed event to the sinks, by a structlog chain: run context, time, sequence, non-finite floats, delivery.

Knows neither which sinks there are nor torch. structlog's global configuration is never touched.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from tqdm import tqdm

from higgs_audio_trainer.errors import LoggingError
from higgs_audio_trainer.events import SCHEMA_VERSION, Envelope, Event, Level, to_mapping

Record = Mapping[str, Any]
Sink = Callable[[Record], None]
Clock = Callable[[], datetime]
EventDict = structlog.typing.EventDict

_ENVELOPE = tuple(item.name for item in fields(Envelope))


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


class Emit(Protocol):
    """What a trainer is given: call it with an event; ask it what became of the events."""

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Deliver one event."""

    @property
    def written(self) -> int:
        """Events that every sink took."""

    @property
    def lost(self) -> int:
        """Deliveries that failed, summed over the sinks."""

    @property
    def replaced(self) -> int:
        """Values that no line can hold and that were replaced."""

    @property
    def seconds(self) -> float:
        """Time spent in calls of this object."""

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging; the first of each source is said on stderr."""


class _Failures:
    """Counts failures by their source."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}

    @property
    def lost(self) -> int:
        """Failures of all sources."""
        return sum(self.failures.values())

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging; the first of each source is said on stderr."""
        self.failures[source] = self.failures.get(source, 0) + 1
        if self.failures[source] == 1:
            _announce(source, error)


def _announce(source: str, error: Exception) -> None:
    # Said beside a progress bar, not through it. The error's repr is one line without control characters of the data.
    # Where stderr is closed or gone there is nowhere left to say it, and the failure is counted already.
    with suppress(Exception):
        tqdm.write(
            f"higgs-audio-trainer: logging to {source} failed: {error!r}; training goes on and run_end counts what is "
            "lost. --strict_logging would end the run instead.",
            file=sys.stderr,
        )


class Pipeline(_Failures):
    """Delivers each event to each sink, once, in order.

    A sink that raises costs its own delivery: the failure is counted, the first of each sink is said on stderr,
    and the other sinks get the event. With `strict` it ends the run instead.

    Args:
        sinks: name and callable of each sink.
        run_id: identifies the run.
        attempt: 0 at first, one more at each resume.
        rank: global rank of this process.
        strict: raise `LoggingError` where a sink raises, instead of counting it.
        clock: gives the time of emission, in UTC.
    """

    def __init__(
        self,
        sinks: Sequence[tuple[str, Sink]],
        *,
        run_id: str,
        attempt: int = 0,
        rank: int = 0,
        strict: bool = False,
        clock: Clock = utc_now,
    ) -> None:
        super().__init__()
        self.written = 0
        self.replaced = 0
        self.seconds = 0.0
        self._sinks = tuple(sinks)
        self._strict = strict
        self._clock = clock
        self._seq = itertools.count()
        # Everything is given, so that nothing is taken from structlog's global configuration, which is the user's.
        self._log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[self._stamp, mark_nonfinite, order_envelope, self._deliver],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
            v=SCHEMA_VERSION,
            run_id=run_id,
            attempt=attempt,
            rank=rank,
        ).bind()

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Deliver one event.

        Raises:
            LoggingError: a sink failed, and the pipeline is strict.
        """
        started = time.perf_counter()
        try:
            getattr(self._log, level)(event.name, level=level, **to_mapping(event))
        finally:
            self.seconds += time.perf_counter() - started

    def _stamp(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        record["ts"] = self._clock().isoformat(timespec="microseconds").replace("+00:00", "Z")
        record["seq"] = next(self._seq)
        return record

    def _deliver(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        delivered = True
        for name, sink in self._sinks:
            try:
                sink(dict(record))  # its own: structlog's users are wont to change what they are given
            except Exception as error:  # whatever a sink raises must not reach the training; it is counted
                if self._strict:
                    raise LoggingError(f"sink {name}", error) from error
                delivered = False
                self.fail(name, error)
        self.written += delivered
        raise structlog.DropEvent


class NullPipeline(_Failures):
    """The pipeline of a rank with nothing to write."""

    written = 0
    replaced = 0
    seconds = 0.0

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Do nothing."""


def mark_nonfinite(_logger: object, _method: str, record: EventDict) -> EventDict:
    """Replace NaN and infinities by null and name their fields in `nonfinite`: JSON has no literal for them."""
    found: list[str] = []
    for key, value in record.items():
        record[key] = _finite(value, key, found)
    if found:
        record["nonfinite"] = found
    return record


def _finite(value: Any, path: str, found: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        found.append(path)
        return None
    if isinstance(value, dict):
        return {key: _finite(item, f"{path}.{key}", found) for key, item in value.items()}
    # Token ids are long lists of ints: look into a list only if it may hold a float.
    if isinstance(value, (list, tuple)) and any(isinstance(item, (float, dict, list, tuple)) for item in value):
        return [_finite(item, f"{path}[{index}]", found) for index, item in enumerate(value)]
    return value


def order_envelope(_logger: object, _method: str, record: EventDict) -> EventDict:
    """Put the envelope before the payload, so that every line begins alike."""
    ordered = {key: record.pop(key) for key in _ENVELOPE}
    ordered.update(record)
    return ordered
