"""The sink that keeps records in a list, for tests and notebooks."""

from __future__ import annotations

from typing import Any

from sinks.protocol import Record


class MemorySink:
    """Sink that keeps a copy of each record.

    Attributes:
        records: Records in the order of arrival.

    Example:
        >>> sink = MemorySink()
        >>> sink({"event": "train_step", "step": 20, "loss": 4.13})
        >>> sink({"event": "checkpoint", "step": 20, "path": "checkpoint-20"})
        >>> [record["loss"] for record in sink.named("train_step")]
        [4.13]
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def __call__(self, record: Record) -> None:
        """Keep a copy of a record."""
        self.records.append(dict(record))

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the records of an event.

        Args:
            event: Name of the event, such as `train_step`.
        """
        return [record for record in self.records if record["event"] == event]
