"""The sink that keeps nothing."""

from __future__ import annotations

from sinks.protocol import Record, Sink, SinkContext


def discard(record: Record) -> None:
    """Take a record and forget it."""


def null_sink(_context: SinkContext) -> Sink:
    """Make the null sink."""
    return discard
