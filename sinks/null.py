"""The sink that discards every record."""

from __future__ import annotations

from sinks.protocol import Record, Sink, SinkContext


def discard(record: Record) -> None:
    """Discard a record."""


def null_sink(_context: SinkContext | None = None) -> Sink:
    """Return the sink that discards every record.

    Other sinks become this sink in a pickle or a copy, because a file and a terminal have a single writer.

    Example:
        >>> sink = null_sink()
        >>> sink({"event": "checkpoint", "path": "checkpoint-20"})
    """
    return discard
