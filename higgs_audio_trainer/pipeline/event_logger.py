"""The structlog logger of a pipeline: a call takes an event and a level."""

from __future__ import annotations

from typing import Any

import structlog

from higgs_audio_trainer.events import Event, Level

#: Name of the payload in the first link of the chain. The link replaces the payload by the fields of the event.
PAYLOAD = "payload"


class EventLogger(structlog.BoundLoggerBase):
    """A bound logger whose chain ends with the delivery. No wrapped logger takes the record.

    structlog's own loggers pass the event as keyword arguments through two more calls, and a chain without a renderer
    has to end with an exception. Both cost a tenth of an event.
    """

    def emit(self, event: Event, level: Level) -> None:
        """Send an event through the chain of processors, unless a processor drops the event.

        Args:
            event: The event.
            level: Level as data: a wrong level does not choose the method.
        """
        record: Any = self._context.copy()
        record["event"], record["level"], record[PAYLOAD] = event.name, level, event
        try:
            for process in self._processors:
                record = process(self._logger, "emit", record)
        except structlog.DropEvent:
            return
