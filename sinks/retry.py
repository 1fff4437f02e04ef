"""When to try again what failed."""

from __future__ import annotations

import errno
from collections.abc import Callable

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_MOST_DOUBLINGS = 6


class Retry:
    """After one failure at once; after more of them in a row after 0.1 s, doubling to 5 s.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._due = 0.0
        self._last = (0, "", "")

    @property
    def errno(self) -> int | None:
        """Number of the error that is not overcome yet."""
        return self._last[0] if self._failures else None

    @property
    def wait_s(self) -> float:
        """Seconds until it may be tried; 0 where it may be now."""
        return max(0.0, self._due - self._clock()) if self._failures else 0.0

    def failed(self, error: OSError) -> None:
        """Note a failure."""
        # Not the error itself: its traceback would keep a record alive.
        self._last = (error.errno or errno.EIO, error.strerror or str(error), str(error.filename))
        wait = _FIRST_WAIT_S * 2 ** min(self._failures - 1, _MOST_DOUBLINGS) if self._failures else 0.0
        self._failures += 1
        self._due = self._clock() + min(wait, _LONGEST_WAIT_S)

    def worked(self) -> None:
        """Note that it works again."""
        self._failures = 0

    def refuse_early(self) -> None:
        """Do nothing where it may be tried.

        Raises:
            OSError: the last error again: it is too early to try.
        """
        if self.wait_s:
            raise OSError(*self._last)
