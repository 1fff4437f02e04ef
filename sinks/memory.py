"""The sink that keeps its records in a list: for tests and notebooks."""

from __future__ import annotations

from typing import Any

from sinks.protocol import Record


class MemorySink:
    """Keeps each record in `records`."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def __call__(self, record: Record) -> None:
        """Keep the record."""
        self.records.append(dict(record))

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the records of one event."""
        return [record for record in self.records if record["event"] == event]
