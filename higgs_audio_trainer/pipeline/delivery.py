"""A sink as the pipeline sees it: what it took, and what it lost since it last worked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

Record = Mapping[str, Any]
Sink = Callable[[Record], None]

NEVER = -1  # a seq that no event has


class Delivery:
    """One sink, the last record that it took, and what it lost since.

    An outage begins with a lost record. It ends when the sink takes the `sink_recovered` record that claims it:
    were the outage forgotten before, and that record lost, nobody would ever read of it.
    """

    __slots__ = (
        "cause",
        "claim",
        "errno",
        "failed",
        "first_seq",
        "last_seq",
        "lost",
        "name",
        "settled",
        "sink",
        "took",
    )

    def __init__(self, name: str, sink: Sink) -> None:
        self.name, self.sink = name, sink
        self.took = self.settled = NEVER
        self.cause: int | None = None  # errno of what the sink raised for the present record
        self.failed = 0  # records not taken, ever
        self.lost = 0  # ... and in the present outage
        self.first_seq = self.last_seq = NEVER
        self.errno: int | None = None
        self.claim = NEVER  # seq of the record that claims the present outage

    def settle(self, seq: int) -> None:
        """Book the outcome of one record, once. Calls nothing, so that no signal handler can come between."""
        if self.settled >= seq:
            return
        self.settled = seq
        if self.took == seq:
            if self.claim == seq:
                self.lost = 0
            return
        if self.lost == 0:
            self.first_seq = seq
        self.failed += 1
        self.lost += 1
        self.last_seq = seq
        self.errno = self.cause
        self.cause = None

    @property
    def works_again(self) -> bool:
        """Whether the sink has taken a record since its last loss."""
        return self.lost > 0 and self.took > self.last_seq

    @property
    def dropped(self) -> int:
        """Records that the sink took and lost later, by its own account."""
        with suppress(Exception):  # an account that cannot be read counts as none
            dropped = getattr(self.sink, "dropped", 0)
            if type(dropped) is int and dropped > 0:
                return dropped
        return 0
