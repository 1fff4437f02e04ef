"""Progress bars of tqdm that other code draws on the terminal, such as the bar of `transformers.Trainer`.

tqdm draws by several writes under a lock. Text between two of the writes would stick to a bar or lose its first
letters. The writer therefore takes the lock too, removes the bars, writes, and draws the bars again, like
`tqdm.external_write_mode`. Unlike in that function, one write does all of this and never waits: a thread that held the
lock and waited for a stopped terminal would stop the training.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sinks.terminal.stream import is_terminal

#: Removes the bars: the row of the cursor, and all rows below. A nested bar that is closing is in no list any more.
ERASURE = "\r\x1b[J"
_PATIENCE_S = 0.5  # for a lock; its owner may wait for a stopped terminal
_MOST_ROWS = 20  # of tqdm
_TRIES = 5  # to list the bars while another thread makes one


class ForeignBars:
    """The bars that other code draws on the terminal. Imports no tqdm: without the module there is no bar."""

    def __init__(self) -> None:
        self._before = False

    def are_drawn(self) -> bool:
        """Return True if a bar is drawn."""
        return bool(_drawn())

    def need_room(self) -> bool:
        """Return True if a bar is drawn, or was at the last call, because a bar leaves its list before its last line.

        Called before each text.
        """
        before, self._before = self._before, self.are_drawn()
        return before or self._before

    @contextmanager
    def aside(self) -> Iterator[str]:
        """Keep the bars from being drawn for the time of a block, which must not wait.

        Yields:
            The text that draws the bars again, after `ERASURE` and another text.
        """
        with _held([getattr(bar, "_lock", None) for bar in _drawn()]):
            yield "".join(map(_picture, sorted(_drawn(), key=_row)))


def _drawn() -> list[Any]:
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    for _ in range(_TRIES):
        try:
            return [bar for bar in getattr(tqdm, "_instances", ()) if _is_drawn(bar)]
        except RuntimeError:  # another thread made a bar
            continue
    return []


def _is_drawn(bar: Any) -> bool:
    if getattr(bar, "disable", True) or getattr(bar, "gui", False) or not hasattr(bar, "last_print_t"):
        return False
    file = getattr(bar, "fp", None)
    is_delayed = bar.last_print_t < bar.start_t + bar.delay
    return not is_delayed and _row(bar) < _MOST_ROWS and not getattr(file, "is_status", False) and is_terminal(file)


def _row(bar: Any) -> int:
    """Return the number of rows of a bar below the cursor's row."""
    return abs(int(bar.pos))


@contextmanager
def _held(locks: list[Any]) -> Iterator[None]:
    """Hold the locks of bars. A lock that another thread does not release in time is left out."""
    with ExitStack() as held:
        parts = (part for lock in locks for part in getattr(lock, "locks", [lock]))
        for lock in dict.fromkeys(parts):
            if lock is not None and lock.acquire(True, _PATIENCE_S):
                held.callback(lock.release)
        yield


def _picture(bar: Any) -> str:
    try:
        return "\n" * _row(bar) + f"\r{bar}" + "\x1b[A" * _row(bar)
    except Exception:  # noqa: BLE001 - a format of other code; tqdm reports its errors at the next update
        return ""
