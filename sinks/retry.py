"""Waiting times between attempts after failures."""

from __future__ import annotations

import errno
from collections.abc import Callable

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_MOST_DOUBLINGS = 6


class Retry:
    """Schedule of attempts: the first retry at once, the next after 0.1 s, then doubling up to 5 s.

    Args:
        clock: Monotonic clock, in seconds.

    Attributes:
        failures: Number of failures since the last success.

    Example:
        >>> retry = Retry(clock=lambda: 0.0)
        >>> waits = []
        >>> for _ in range(4):
        ...     retry.failed(OSError(errno.ENOSPC, "No space left on device"))
        ...     waits.append(retry.wait_s)
        >>> waits
        [0.0, 0.1, 0.2, 0.4]
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.failures = 0
        self._next_s = 0.0
        self._last = (0, "", "")

    @property
    def errno(self) -> int | None:
        """Error number of the last failure; None after a success."""
        return self._last[0] if self.failures else None

    @property
    def wait_s(self) -> float:
        """Seconds until the next attempt; 0 if an attempt may start now."""
        return max(0.0, self._next_s - self._clock()) if self.failures else 0.0

    def failed(self, error: OSError) -> None:
        """Record a failure."""
        # Not the exception, because the traceback would keep a record alive.
        self._last = (error.errno or errno.EIO, error.strerror or str(error), str(error.filename))
        wait = _FIRST_WAIT_S * 2 ** min(self.failures - 1, _MOST_DOUBLINGS) if self.failures else 0.0
        self.failures += 1
        self._next_s = self._clock() + min(wait, _LONGEST_WAIT_S)

    def worked(self) -> None:
        """Record a success."""
        self.failures = 0

    def refuse_early(self) -> None:
        """Raise the last error again if the next attempt has to wait.

        Raises:
            OSError: The waiting time is not over.
        """
        if self.wait_s:
            raise OSError(*self._last)
