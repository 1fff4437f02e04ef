"""The pipeline: a structlog chain from an event to a record in every sink.

The links of the chain add run context, payload, time and `seq`, run the user's processors, make values encodable and
deliver. The chain imports no sink and no torch, and never touches structlog's global configuration.

Invariants, for every caller and every failure:

- A pipeline raises into the training only in strict mode. Every failure is counted.
- Each event that reaches delivery has a `seq`, one more than the event before. Every sink gets events in that order.
- A later `sink_recovered` record accounts for each `seq` missed by a sink, unless the sink never works again.
- A pipeline works only in the process of its creation.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime

import structlog

from higgs_audio_trainer.errors import LoggingError
from higgs_audio_trainer.events import SCHEMA_VERSION, Envelope, Event, Level, RunEnd, SinkRecovered, to_mapping
from higgs_audio_trainer.pipeline.deliveries import Deliveries
from higgs_audio_trainer.pipeline.delivery import Delivery, Record, Sink
from higgs_audio_trainer.pipeline.event_logger import PAYLOAD, EventLogger
from higgs_audio_trainer.pipeline.failure_message import Say, print_above_progress_bar, strict_error
from higgs_audio_trainer.pipeline.failures import FailureCounts
from higgs_audio_trainer.pipeline.json_values import plain_record, to_json_values
from higgs_audio_trainer.pipeline.null_pipeline import NullPipeline
from higgs_audio_trainer.pipeline.processing import ProcessorChain
from higgs_audio_trainer.pipeline.processors import NamedProcessor, Processor
from higgs_audio_trainer.pipeline.protocol import Emit
from higgs_audio_trainer.pipeline.timestamp import TimestampFormat

__all__ = ["Clock", "Emit", "NullPipeline", "Pipeline", "Record", "Say", "Sink", "print_above_progress_bar", "utc_now"]

Clock = Callable[[], datetime]
EventDict = structlog.typing.EventDict

#: Sources of failures beside sinks and processors.
EMIT, CLOCK, REENTRANT = "emit", "clock", "re-entrant emit"

_ENVELOPE = dict.fromkeys(item.name for item in fields(Envelope))


def utc_now() -> datetime:
    """Return the present time in UTC.

    Example:
        >>> utc_now().utcoffset()
        datetime.timedelta(0)
    """
    return datetime.now(UTC)


class Pipeline:
    """Delivers each event to each sink, once and in order. Threads, signal handlers and finalisers may call a pipeline.

    If a sink raises, the sink loses the event and the other sinks get the event. The failure is counted, and the first
    failure of each sink is announced. When the sink takes a record again, a `sink_recovered` event gives the exact
    numbers of the lost records. With `strict`, a failure ends the run instead.

    A call from within a call on the same thread (by a signal handler, `__del__`, a sink, a processor or `say`) is
    dropped and counted. After a fork, the copy in the child does nothing. A pickled pipeline becomes a `NullPipeline`.

    Args:
        sinks: Name and callable of each sink.
        run_id: Identifier of the run.
        attempt: 0 for a new run, one more at each resume.
        rank: Global rank of this process.
        strict: Raise `LoggingError` if a sink or a processor fails.
        clock: Returns the time of emission in UTC. `ts` follows a clock that goes backwards; `seq` does not depend on
            the clock.
        say: Prints one line for the user.
        processors: Callables with structlog's signature, to change fields or to raise `DropEvent`. See
            `ProcessorChain`. A failure of a processor costs no event.

    Attributes:
        replaced: Number of values replaced for lack of a JSON form.
        seconds: Time spent on emitting; seconds.

    Raises:
        UserError: The log cannot work with a processor.

    Example:
        >>> from higgs_audio_trainer.events import Checkpoint
        >>> emit = Pipeline([("print", lambda record: print(record["seq"], record["path"]))], run_id="r")
        >>> emit(Checkpoint(step=20, path="checkpoint-20"))
        0 checkpoint-20
        >>> emit.written, emit.lost
        (1, 0)
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
        say: Say = print_above_progress_bar,
        processors: Sequence[Processor | NamedProcessor] = (),
    ) -> None:
        self.replaced = 0
        self.seconds = 0.0
        self._pid = os.getpid()
        self._deliveries = Deliveries(sinks, fail=self._note_sink_failure)
        self._strict = strict
        self._clock = clock
        self._timestamp = TimestampFormat()
        self._time = "1970-01-01T00:00:00.000000Z"
        self._line: bytes | None = None  # the present record as a line of JSON, if no value was replaced
        chain = ProcessorChain(processors, self._note_processor_failure) if processors else None
        harmless = (CLOCK, *(chain.sources if chain else ()))
        self._failures = FailureCounts((EMIT, REENTRANT), harmless=harmless, say=say)
        self._strict_failures: list[tuple[str, BaseException]] = []  # of the present event; the first ends the run
        # The lock orders threads and admits every call of the same thread. `_busy` rejects a call within a call: a
        # signal handler that waited for the interrupted call would wait forever.
        self._lock = threading.RLock()
        self._busy = False
        # All arguments are given, because structlog would read missing ones from the user's global configuration.
        self._log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[
                self._add_payload,
                self._add_time_and_seq,
                *([chain] if chain else []),
                self._make_encodable,
                self._deliver,
            ],
            wrapper_class=EventLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
            # The names of the whole envelope come first, so that every line begins alike.
            **(_ENVELOPE | {"v": SCHEMA_VERSION, "run_id": run_id, "attempt": attempt, "rank": rank}),
        ).bind()

    def __reduce__(self) -> tuple[type[NullPipeline], tuple[()]]:
        return NullPipeline, ()  # a worker process must not write into the files of its parent

    @property
    def failures(self) -> dict[str, int]:
        """Number of failures by source, without sources that never failed."""
        counts = dict(self._failures.counts)
        for delivery in self._deliveries:
            counts[delivery.name] = counts.get(delivery.name, 0) + delivery.num_failed
        return {source: count for source, count in counts.items() if count}

    @property
    def written(self) -> int:
        """Number of events taken by every sink, `sink_recovered` included."""
        return self._deliveries.written

    @property
    def lost(self) -> int:
        """Number of failed deliveries, records dropped later by sinks, and events without a delivery."""
        return self._failures.num_lost + self._deliveries.num_lost

    def fail(self, source: str, error: Exception) -> None:
        """Count a failure of logging, and announce the first failure of each source."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            try:
                self._failures.add(source, error)
                if not self._busy:  # the interrupted call prints the announcement
                    self._busy = True
                    try:
                        self._print_announcements()
                    finally:
                        self._busy = False
            except Exception:  # noqa: BLE001 - memory or stack ran out; counted without a call
                self._failures.counts[EMIT] += 1

    def recover(self) -> None:
        """Offer each failed sink a report of the outage. A working sink takes the report before `run_end`."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                self._deliveries.probe_failed(self._emit_report)
            except LoggingError:
                pass  # a strict pipeline has counted the failure
            except Exception:  # noqa: BLE001 - memory or stack ran out; counted without a call
                self._failures.counts[EMIT] += 1
            finally:
                self._busy = False

    def __call__(self, event: Event, /, *, level: Level = "info") -> None:
        """Deliver one event.

        Raises:
            LoggingError: A sink or a processor failed, and the pipeline is strict.
        """
        if os.getpid() != self._pid:
            return  # before the lock, which another thread of the parent may have held at the fork
        started = time.perf_counter()
        with self._lock:
            # A signal handler may run between any two lines, and emit. Before `_busy` is set and after `_busy` is
            # reset, no delivery is unfinished and the handler's event is delivered. In between, the call is rejected.
            if self._busy:
                self._failures.counts[REENTRANT] += 1
                return
            self._busy = True
            try:
                self._emit(event, level)
                if not isinstance(event, RunEnd):  # no line follows `run_end`; the caller called `recover` before
                    self._deliveries.report_recoveries(self._emit_report)
                if self._failures.pending or self._failures.counts[REENTRANT]:
                    self._print_announcements()
            except Exception:
                if self._strict:
                    raise
                self._failures.counts[EMIT] += 1  # memory or stack ran out, and no call may be possible
            finally:
                self._busy = False
                took = time.perf_counter() - started
                self.seconds += took

    def _emit(self, event: Event, level: Level) -> None:
        self._deliveries.book_outcome()  # of a record whose delivery was interrupted
        self._strict_failures.clear()
        try:
            self._log.emit(event, level)
        except Exception as error:  # the argument is no event
            if not self._strict:
                self._failures.add(EMIT, error)
            else:
                self._failures.counts[EMIT] += 1
                raise strict_error(EMIT, error) from error
        if self._strict_failures:  # raised after every sink had its turn
            source, cause = self._strict_failures[0]
            self._strict_failures.clear()  # an error keeps the frames of the failed call alive
            raise strict_error(source, cause) from cause

    def _add_payload(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        record.update(to_mapping(record.pop(PAYLOAD)))
        return record

    def _add_time_and_seq(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        try:
            self._time = self._timestamp(self._clock())
        except Exception as error:  # noqa: BLE001 - counted; the event gets the time of the event before
            self._failures.add(CLOCK, error)
        record["ts"] = self._time
        record["seq"] = self._deliveries.next_seq
        return record

    def _make_encodable(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        plain = plain_record(record)
        if plain is not None:
            record, self._line = plain
            return record
        self._line = None
        record, replaced = to_json_values(record)
        self.replaced += replaced
        return record

    def _deliver(self, _logger: object, _method: str, record: EventDict) -> EventDict:
        self._deliveries.deliver(record, self._line)
        return record

    def _note_sink_failure(self, delivery: Delivery, error: BaseException) -> None:
        self._note_failure(delivery.name, f"sink {delivery.name}", error)

    def _note_processor_failure(self, source: str, error: BaseException) -> None:
        self._failures.counts[source] += 1
        self._note_failure(source, source, error)

    def _note_failure(self, source: str, described: str, error: BaseException) -> None:
        """Announce a failure once; in a strict pipeline, keep the failure for `_emit` to raise."""
        if self._strict:
            self._strict_failures.append((described, error))
        else:
            self._failures.announce(source, error)

    def _emit_report(self, event: SinkRecovered) -> None:
        self._emit(event, "warning")

    def _print_announcements(self) -> None:
        """Print pending announcements after the delivery. `_busy` rejects a `say` that emits."""
        if self._failures.counts[REENTRANT]:
            self._failures.announce(REENTRANT, RuntimeError("an event emitted from within emit was dropped"))
        self._failures.print_announcements()
