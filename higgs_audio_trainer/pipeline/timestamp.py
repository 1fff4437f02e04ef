"""Times as text for the envelope."""

from __future__ import annotations

from datetime import UTC, datetime


class TimestampFormat:
    """Formats times as RFC 3339 in UTC with microseconds. The text of the last second is reused.

    `isoformat` of an aware time asks the time zone for the offset and takes five times longer.

    Example:
        >>> timestamp = TimestampFormat()
        >>> timestamp(datetime(2026, 1, 2, 3, 4, 5, 67, tzinfo=UTC))
        '2026-01-02T03:04:05.000067Z'
    """

    def __init__(self) -> None:
        self._second = datetime(1970, 1, 1, tzinfo=UTC)
        self._text = "1970-01-01T00:00:00"

    def __call__(self, time: datetime) -> str:
        """Return a time as text.

        Raises:
            Exception: The argument is no time, or the time has no place in UTC.
        """
        if time.tzinfo is not UTC:
            time = time.astimezone(UTC)
        since = time - self._second
        if since.seconds or since.days:  # another second; earlier times have a negative number of days
            second = time.replace(microsecond=0)
            self._text = second.isoformat().removesuffix("+00:00")
            self._second = second
        return f"{self._text}.{time.microsecond:06d}Z"
