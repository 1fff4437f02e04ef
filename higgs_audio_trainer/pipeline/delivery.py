"""Delivery of records to one sink, with an exact account of lost records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import Parameter, signature
from typing import Any

from higgs_audio_trainer.pipeline.failure_message import errno_of

Record = Mapping[str, Any]
Sink = Callable[[Record], None]

NEVER = -1  # no event has this seq


class Delivery:
    """One sink and the account of its outages.

    An outage begins with a lost record. An outage ends when the sink takes the `sink_recovered` record about the
    outage. An earlier end would forget the outage if the sink lost that record too.

    Args:
        name: Name of the sink.
        sink: Takes one record.

    Attributes:
        name: Name of the sink.
        num_failed: Records lost since the beginning.
        num_lost: Records lost in the present outage. 0 without an outage.
        first_lost_seq: `seq` of the first lost record of the present outage.
        last_lost_seq: `seq` of the last lost record of the present outage.
        errno: Error number of the last lost record. None if no error of the operating system was the cause.
        taken_seq: `seq` of the last record taken by the sink.
        report_seq: `seq` of the `sink_recovered` record about the present outage.
    """

    __slots__ = (
        "_booked_seq",
        "_present_errno",
        "_sink",
        "_takes_line",
        "errno",
        "first_lost_seq",
        "last_lost_seq",
        "name",
        "num_failed",
        "num_lost",
        "report_seq",
        "taken_seq",
    )

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self._sink: Callable[..., None] = sink
        self._takes_line = _takes_line(sink)
        self.taken_seq = self._booked_seq = NEVER
        self._present_errno: int | None = None  # of the error that the sink raised for the present record
        self.num_failed = self.num_lost = 0
        self.first_lost_seq = self.last_lost_seq = NEVER
        self.errno: int | None = None
        self.report_seq = NEVER

    def offer(self, record: Record, seq: int, json_line: bytes | None = None) -> BaseException | None:
        """Give the sink a copy of a record, and return the sink's error if there is one.

        `SystemExit` from a sink must not end the training, so every error but `KeyboardInterrupt` is returned.
        """
        try:
            # A copy, for a sink may change the record.
            if self._takes_line:
                self._sink(dict(record), json_line=json_line)
            else:
                self._sink(dict(record))
            self.taken_seq = seq
        except KeyboardInterrupt:
            raise  # the user's interruption, not the sink's failure
        except BaseException as error:  # noqa: BLE001 - `book` counts the failure
            return error
        return None

    def note_cause(self, error: BaseException) -> None:
        """Remember why the sink did not take the present record."""
        self._present_errno = errno_of(error)

    def book(self, seq: int) -> None:
        """Book the outcome of a record. A second call for the same record changes nothing.

        The method calls nothing, so no signal handler runs in between.

        Example:
            >>> delivery = Delivery("a", print)
            >>> delivery.book(0)
            >>> delivery.num_lost, delivery.first_lost_seq
            (1, 0)
        """
        if self._booked_seq >= seq:
            return
        self._booked_seq = seq
        if self.taken_seq == seq:
            if self.report_seq == seq:
                self.num_lost = 0
            return
        if self.num_lost == 0:
            self.first_lost_seq = seq
        self.num_failed += 1
        self.num_lost += 1
        self.last_lost_seq = seq
        self.errno = self._present_errno
        self._present_errno = None

    @property
    def works_again(self) -> bool:
        """Whether the sink took a record after the last lost record."""
        return self.num_lost > 0 and self.taken_seq > self.last_lost_seq

    @property
    def num_dropped(self) -> int:
        """Records taken by the sink and lost later, from the sink's `dropped` attribute."""
        with suppress(Exception):  # an attribute that raises counts as 0
            dropped = getattr(self._sink, "dropped", 0)
            if type(dropped) is int and dropped > 0:
                return dropped
        return 0


def _takes_line(sink: Sink) -> bool:
    """Return True if a sink declares the keyword `json_line` itself. A wrapper around such a sink does not count."""
    with suppress(Exception):  # a callable without a signature takes the record alone
        parameter = signature(sink, follow_wrapped=False).parameters.get("json_line")
        return parameter is not None and parameter.kind is Parameter.KEYWORD_ONLY
    return False
