"""From a typed event to the sinks, by a structlog chain: run context, time, sequence, values that fit, delivery.

Knows neither which sinks there are nor torch. structlog's global configuration is never touched.

What holds at any moment, whoever calls and whatever fails:

- Nothing is raised into the training but in strict mode; what fails is counted.
- Each event that reaches delivery has a `seq`, one more than the one before. Every sink gets the events in that order.
- A `seq` that a sink did not take is claimed by a later `sink_recovered` record, or the sink did not work again.
- In another process than the one that made it, a pipeline does nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import Protocol

import structlog

from higgs_audio_trainer.errors import LoggingError
from higgs_audio_trainer.events import SCHEMA_VERSION, Envelope, Event, Level, RunEnd, SinkRecovered, to_mapping
from higgs_audio_trainer.pipeline.delivery import NEVER, Delivery, Record, Sink
from higgs_audio_trainer.pipeline.failure_message import Say, errno_of, failure_message, say_on_stderr, strict_error
from higgs_audio_trainer.pipeline.json_values import to_json_values
from higgs_audio_trainer.pipeline.processing import ProcessorChain
from higgs_audio_trainer.pipeline.processors import NamedProcessor, Processor

__all__ = [
    "Clock",
    "Emit",
    "NullPipeline",
    "Pipeline",
    "Record",
    "Say",
    "Sink",
    "say_on_stderr",
    "utc_now",
]

Clock = Callable[[], datetime]
EventDict = structlog.typing.EventDict

#: Sources of failures that are no sink.
EMIT, CLOCK, REENTRANT = "emit", "clock", "re-entrant emit"

_ENVELOPE = dict.fromkeys(item.name for item in fields(Envelope))


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
        """Deliveries that failed, summed over the sinks, and events that came to no delivery."""

    @property
    def replaced(self) -> int:
        """Values that no line can hold and that were replaced."""

    @property
    def seconds(self) -> float:
        """Time spent on emitting."""

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging; the first of each source is said to the person who runs it."""

    def recover(self) -> None:
        """Have sinks that work again after a failure report it; to be called before the last event."""


class Pipeline:
    """Delivers each event to each sink, once, in order; safe to call from threads, signal handlers and finalisers.

    A sink that raises costs its own delivery: the failure is counted, the first of each sink is said, and the other
    sinks get the event. When it takes a record again, a `sink_recovered` event says exactly what it lost. With `strict`
    a failure ends the run instead.

    A call from within a call on the same thread (from a signal handler, `__del__`, a sink, `say`) is dropped and
    counted. After a fork the child's copy does nothing; pickled, it becomes a `NullPipeline`.

    Args:
        sinks: name and callable of each sink.
        run_id: identifies the run.
        attempt: 0 at first, one more at each resume.
        rank: global rank of this process.
        strict: raise `LoggingError` where a sink raises, instead of counting it.
        clock: gives the time of emission, in UTC. `ts` follows it, backwards too; `seq` does not depend on it.
        say: tells a person one line.
        processors: Callables with structlog's signature that add, change or remove fields, or raise `DropEvent`. See
            `ProcessorChain`. A failure of a processor costs no event.

    Attributes:
        written: events that every sink took, `sink_recovered` included.
        replaced: values that no line can hold and that were replaced.
        seconds: time spent on emitting.
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
        say: Say = say_on_stderr,
        processors: Sequence[Processor | NamedProcessor] = (),
    ) -> None:
        self.written = 0
        self.replaced = 0
        self.seconds = 0.0
        self._pid = os.getpid()
        self._outlets = tuple(Delivery(name, sink) for name, sink in sinks)
        self._strict = strict
        self._clock = clock
        self._time = "1970-01-01T00:00:00.000000Z"
        self._next_seq = 0
        self._settled = NEVER
        chain = ProcessorChain(processors, self._processor_failed) if processors else None
        self._costs_no_event = (CLOCK, *(chain.sources if chain else ()))
        self._failures = dict.fromkeys((EMIT, REENTRANT, *self._costs_no_event), 0)
        self._strict_failures: list[tuple[str, BaseException]] = []  # of the present event; the first ends the run
        self._say = say
        self._announced: set[str] = set()
        self._unsaid: list[str] = []
        # The lock orders threads. Within a thread it lets everybody in, and `_busy` turns them away: a handler that
        # waited for the code that it interrupted would wait for ever.
        self._lock = threading.RLock()
        self._busy = False
        self._asked: Delivery | None = None  # the sink that is asked whether it works again
        # Everything is given, so that nothing is taken from structlog's global configuration, which is the user's.
        self._log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[
                self._add_payload,
                self._stamp,
                *([chain] if chain else []),
                self._make_encodable,
                self._deliver,
            ],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
            # All of the envelope has its place before the payload, so that every line begins alike.
            **(_ENVELOPE | {"v": SCHEMA_VERSION, "run_id": run_id, "attempt": attempt, "rank": rank}),
        ).bind()

    def __reduce__(self) -> tuple[type[NullPipeline], tuple[()]]:
        return NullPipeline, ()  # a worker process writes nothing into its parent's files

    @property
    def failures(self) -> dict[str, int]:
        """How often each source failed."""
        counts = dict(self._failures)
        for outlet in self._outlets:
            counts[outlet.name] = counts.get(outlet.name, 0) + outlet.failed
        return {source: count for source, count in counts.items() if count}

    @property
    def lost(self) -> int:
        """Deliveries that failed, what sinks took and lost later, and events that came to no delivery at all."""
        delivered = sum(self._failures[source] for source in self._costs_no_event)
        return sum(self.failures.values()) - delivered + sum(outlet.dropped for outlet in self._outlets)

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging; the first of each source is said."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            try:
                self._count(source, error)
                if not self._busy:  # else the call that this one interrupted will say it
                    self._busy = True
                    try:
                        self._speak()
                    finally:
                        self._busy = False
            except Exception:  # noqa: BLE001 - out of memory or of stack: counted, where not even a call can be made
                self._failures[EMIT] += 1

    def recover(self) -> None:
        """Ask the sinks that failed whether they work again; those that do report it now, and not after `run_end`."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                self._settle()
                for outlet in self._outlets:
                    if outlet.lost:
                        self._asked = outlet
                        self._report(outlet)
            except LoggingError:  # of a strict pipeline, which counted the failure
                pass
            except Exception:  # noqa: BLE001 - out of memory or of stack: counted, where not even a call can be made
                self._failures[EMIT] += 1
            finally:
                self._asked = None
                self._busy = False

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Deliver one event.

        Raises:
            LoggingError: a sink failed, and the pipeline is strict.
        """
        if os.getpid() != self._pid:
            return  # before the lock: another thread of the parent may have held it when the process forked
        started = time.perf_counter()
        with self._lock:
            # A signal handler may come between any two lines, and emit. Before `_busy` is set and after it is reset it
            # finds nothing begun or all done, and its event is delivered; in between it is turned away.
            if self._busy:
                self._failures[REENTRANT] += 1
                return
            self._busy = True
            try:
                self._emit(event, level)
                if not isinstance(event, RunEnd):  # nothing follows it: `recover` was called before
                    self._report_recoveries()
                self._speak()
            except Exception:
                if self._strict:
                    raise
                self._failures[EMIT] += 1  # out of memory or of stack, where not even a call can be made
            finally:
                self._busy = False
                took = time.perf_counter() - started
                self.seconds += took

    def _emit(self, event: Event, level: Level) -> None:
        self._settle()  # what an interruption may have left undone
        self._strict_failures.clear()
        try:
            # One method for all levels: `level` is data, and a wrong one must not choose what is called.
            self._log.msg(event.name, level=level, payload=event)
        except Exception as error:  # an event that is none, or a strict sink's; the training must not feel the former
            if not self._strict:
                self._count(EMIT, error)
            else:
                self._failures[EMIT] += 1
                raise strict_error(EMIT, error) from error
        if self._strict_failures:  # after every sink had its turn
            source, cause = self._strict_failures[0]
            self._strict_failures.clear()  # an error keeps the frames of the failed call alive
            raise strict_error(source, cause) from cause

    def _add_payload(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        record.update(to_mapping(record.pop("payload")))
        return record

    def _stamp(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        try:
            moment = self._clock()
            if moment.tzinfo is not UTC:
                moment = moment.astimezone(UTC)
            self._time = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        except Exception as error:  # noqa: BLE001 - an event with the time of the one before beats none; it is counted
            self._count(CLOCK, error)
        record["ts"] = self._time
        record["seq"] = self._next_seq
        return record

    def _make_encodable(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        record, replaced = to_json_values(record)
        self.replaced += replaced
        return record

    def _deliver(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        seq = self._next_seq
        if self._asked is not None and not self._takes(self._asked, record, seq):
            raise structlog.DropEvent
        self._next_seq = seq + 1  # not before: what failed until here leaves no gap
        try:
            for outlet in self._outlets:
                if outlet is not self._asked:
                    self._deliver_to(outlet, record, seq)
        finally:  # also where Ctrl-C came in the middle: the sinks that did not get the record have lost it
            self._settle()
        raise structlog.DropEvent

    def _deliver_to(self, outlet: Delivery, record: EventDict, seq: int) -> None:
        try:
            outlet.sink(dict(record))  # its own: structlog's users are wont to change what they are given
            outlet.took = seq
        except KeyboardInterrupt:
            raise  # the person's, not the sink's
        except BaseException as error:  # noqa: BLE001 - a sink that exits must not end the training; `_settle` counts it
            outlet.cause = errno_of(error)
            self._note_failure(outlet.name, f"sink {outlet.name}", error)

    def _processor_failed(self, source: str, error: BaseException) -> None:
        self._failures[source] += 1
        self._note_failure(source, source, error)

    def _note_failure(self, source: str, described: str, error: BaseException) -> None:
        """Announce a failure once; in a strict pipeline, keep the failure for `_emit` to raise."""
        if self._strict:
            self._strict_failures.append((described, error))
        else:
            self._announce_once(source, error)

    def _takes(self, outlet: Delivery, record: EventDict, seq: int) -> bool:
        try:
            outlet.sink(dict(record))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - it fails as it did before: no event was lost by asking
            return False
        outlet.took = seq
        return True

    def _settle(self) -> None:
        """Book the outcome of the last record. What is booked already is left, so that this can be done again."""
        seq = self._next_seq - 1
        if self._settled >= seq:
            return
        complete = True
        for outlet in self._outlets:
            outlet.settle(seq)
            complete = complete and outlet.took == seq
        self._settled = seq
        self.written += complete

    def _report_recoveries(self) -> None:
        # Once round: two sinks that fail by turns would report each other without end.
        for outlet in self._outlets:
            if outlet.works_again:
                self._report(outlet)

    def _report(self, outlet: Delivery) -> None:
        event = SinkRecovered(
            sink=outlet.name,
            lost=outlet.lost,
            first_seq=outlet.first_seq,
            last_seq=outlet.last_seq,
            errno=outlet.errno,
        )
        outlet.claim = self._next_seq
        try:
            self._emit(event, "warning")
        finally:
            outlet.claim = NEVER

    def _count(self, source: str, error: Exception) -> None:
        if source not in self._failures:
            self._failures[source] = 0
        self._failures[source] += 1  # on its own line, without a call: an interruption cannot lose a count
        self._announce_once(source, error)

    def _announce_once(self, source: str, error: BaseException) -> None:
        if source not in self._announced:
            self._announced.add(source)
            self._unsaid.append(failure_message(source, error, costs_event=source not in self._costs_no_event))

    def _speak(self) -> None:
        """Say what is to be said, now that the event is delivered; `_busy` keeps `say` from emitting."""
        if self._failures[REENTRANT]:
            self._announce_once(REENTRANT, RuntimeError("an event emitted from within emit was dropped"))
        for _ in range(len(self._unsaid)):  # what comes meanwhile is said after the next event
            with suppress(Exception):  # nowhere left to say it; it is counted already
                self._say(self._unsaid.pop(0))


class NullPipeline:
    """The pipeline of a rank with nothing to write."""

    written = 0
    replaced = 0
    seconds = 0.0

    def __init__(self, *, say: Say = say_on_stderr) -> None:
        self.failures: dict[str, int] = {}
        self._say = say

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Do nothing."""

    def recover(self) -> None:
        """Do nothing."""

    @property
    def lost(self) -> int:
        """Failures of all sources."""
        return sum(self.failures.values())

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging; the first of each source is said on stderr."""
        self.failures[source] = self.failures.get(source, 0) + 1
        if self.failures[source] == 1:
            with suppress(Exception):  # nowhere left to say it; it is counted already
                self._say(failure_message(source, error))
