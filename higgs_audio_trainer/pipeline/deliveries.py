"""Delivery of records to all sinks: the numbers of the records, and the account of every sink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from higgs_audio_trainer.events import SinkRecovered
from higgs_audio_trainer.pipeline.delivery import NEVER, Delivery, Record, Sink


class Deliveries:
    """All sinks, in order, and the `seq` of the next record.

    Args:
        sinks: Name and callable of each sink.
        fail: Takes a sink and the sink's error.

    Attributes:
        next_seq: `seq` of the next record.
        written: Number of records taken by every sink.

    Example:
        >>> deliveries = Deliveries([("print", lambda record: print(record["step"]))], fail=print)
        >>> deliveries.deliver({"step": 1})
        1
        >>> deliveries.next_seq, deliveries.written
        (1, 1)
    """

    def __init__(self, sinks: Iterable[tuple[str, Sink]], *, fail: Callable[[Delivery, BaseException], None]) -> None:
        self.next_seq = 0
        self.written = 0
        self._all = tuple(Delivery(name, sink) for name, sink in sinks)
        self._fail = fail
        self._booked_seq = NEVER
        self._probed: Delivery | None = None  # the sink that is tested with a report of its outage

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._all)

    @property
    def num_lost(self) -> int:
        """Number of records not taken, plus records dropped later, summed over the sinks."""
        return sum(delivery.num_failed + delivery.num_dropped for delivery in self._all)

    def deliver(self, record: Record, json_line: bytes | None = None) -> None:
        """Offer a record to every sink.

        Args:
            record: Record of builtins.
            json_line: The record as a line of JSON, None for a record that is not encoded.

        A report from `probe_failed` goes to the failed sink first. If the sink still fails, no other sink gets the
        report, and the test costs no `seq`.
        """
        seq = self.next_seq
        if self._probed is not None and self._probed.offer(record, seq, json_line) is not None:
            return
        self.next_seq = seq + 1  # only now, so that an earlier failure leaves no gap
        try:
            for delivery in self._all:
                if delivery is not self._probed and (error := delivery.offer(record, seq, json_line)) is not None:
                    delivery.note_cause(error)
                    self._fail(delivery, error)
        finally:  # after Ctrl-C too: the sinks that did not get the record lost the record
            self.book_outcome()

    def book_outcome(self) -> None:
        """Book the outcome of the last record. A second call repeats an interrupted call and changes nothing else."""
        seq = self.next_seq - 1
        if self._booked_seq >= seq:
            return
        taken_by_all = True
        for delivery in self._all:
            delivery.book(seq)
            taken_by_all = taken_by_all and delivery.taken_seq == seq
        self._booked_seq = seq
        self.written += taken_by_all

    def report_recoveries(self, emit: Callable[[SinkRecovered], None]) -> None:
        """Emit a report for each sink with a record taken after an outage.

        Each sink reports once. Two sinks failing by turns would otherwise report each other without end.
        """
        for delivery in self._all:
            if delivery.num_lost and delivery.works_again:
                self._report(delivery, emit)

    def probe_failed(self, emit: Callable[[SinkRecovered], None]) -> None:
        """Emit a report for each sink in an outage, and deliver the report only if the sink takes the report."""
        self.book_outcome()
        try:
            for delivery in self._all:
                if delivery.num_lost:
                    self._probed = delivery
                    self._report(delivery, emit)
        finally:
            self._probed = None

    def _report(self, delivery: Delivery, emit: Callable[[SinkRecovered], None]) -> None:
        delivery.report_seq = self.next_seq
        try:
            emit(
                SinkRecovered(
                    sink=delivery.name,
                    lost=delivery.num_lost,
                    first_seq=delivery.first_lost_seq,
                    last_seq=delivery.last_lost_seq,
                    errno=delivery.errno,
                )
            )
        finally:
            delivery.report_seq = NEVER
