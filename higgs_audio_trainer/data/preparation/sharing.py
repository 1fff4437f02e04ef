"""Units of work for several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from higgs_audio_trainer.data.preparation.claims import Claims

_POLL_S = 0.2  # between looks at the work of other processes
_PATIENCE = 10  # looks before a person is told


def share(
    units: Sequence[str],
    claims: Claims,
    *,
    is_done: Callable[[str], bool],
    work: Callable[[str], None],
    after_each: Callable[[int], None] = lambda _done: None,
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Work until all units are done, by this process or by others.

    Args:
        units: Names of the units, valid as names of claims and the same in every process.
        claims: Claims of this process.
        is_done: Returns True for a unit that is done.
        work: Does a unit.
        after_each: Called with the number of units that are done, also while the process waits for others.
        on_wait: Called once if the process has waited for others for two seconds.
    """
    rest = list(units)
    waited = 0
    while rest:
        left = []
        for position, unit in enumerate(rest):
            if is_done(unit):
                continue
            if not claims.take(unit):
                left.append(unit)
                continue
            try:
                if not is_done(unit):  # another process may have been faster
                    work(unit)
            finally:
                claims.release([unit])
            after_each(len(units) - len(rest) + position + 1 - len(left))
        if len(left) == len(rest):
            waited += 1
            if waited == _PATIENCE:
                on_wait()
            time.sleep(_POLL_S)
        rest = left
        after_each(len(units) - len(rest))
