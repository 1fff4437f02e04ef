"""What a tracker's sink adds to `emit`: the time of the call, in which the tracker itself does nothing.

    python -m benchmarks.trackers

The call looks at the record and queues it; a thread hands it on. The floor is the same pipeline into a sink that
forgets. The thread's own work is in another row: it takes the interpreter from the training while it runs, but is not
waited for. A library that is not installed has no row.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import sinks
from benchmarks.rows import Row, run_alone
from benchmarks.timing import ratio
from benchmarks.typical_event import typical_event
from higgs_audio_trainer.emit import Pipeline
from sinks.null import discard

NAMES = ("trackio", "tensorboard", "wandb", "mlflow")
_RUN = "0" * 26


def rows(quick: bool = False) -> list[Row]:
    """Measure each tracker and the floor by turns: two rows of each tracker."""
    rounds, calls = (2, 20) if quick else (9, 200)
    made = []
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for name in NAMES:
            with redirect_stderr(nowhere):
                measured = _measure(name, Path(folder), rounds, calls)
            if measured is not None:
                made += measured
    return made


def _measure(name: str, folder: Path, rounds: int, calls: int) -> list[Row] | None:
    event = typical_event()
    floor = Pipeline([("null", discard)], run_id=_RUN)
    asked = f"{name}:dir={folder / name}"
    taken: list[float] = []
    floors: list[float] = []
    handed: list[float] = []
    for turn in range(rounds + 1):
        try:
            [(_, sink)] = sinks.build(asked, sinks.SinkContext(str(folder), f"{_RUN}{turn}", 0, 0))
        except sinks.SinkError:
            return None
        emit = Pipeline([(name, sink)], run_id=f"{_RUN}{turn}")
        floor_s = _seconds(partial(floor, event), calls)
        call_s = _seconds(partial(emit, event), calls)
        began = perf_counter()
        sink.close()  # type: ignore[attr-defined]
        if turn:
            floors.append(floor_s)
            taken.append(call_s)
            handed.append((perf_counter() - began) / calls)
    added = [1e6 * (one - least) for one, least in zip(taken, floors, strict=True)]
    against = f"no sink ({1e6 * median(floors):.1f} µs)"
    return [
        Row(f"emit, with {name}: what the call adds", median(added), "µs", against, ratio(taken, floors)),
        Row(f"{name}: its thread, an event, with opening and end", 1e6 * median(handed), "µs"),
    ]


def _seconds(call: Callable[[], object], calls: int) -> float:
    began = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - began) / calls


if __name__ == "__main__":
    run_alone(rows, __doc__ or "")
