"""What a tracker costs the training: what its sink adds to `emit`, and what a due step takes with it.

    python -m benchmarks.trackers

The call looks at the record and queues it; a thread hands it on. The floor is the same pipeline into a sink that
forgets. The thread's own work is in another row: it takes the interpreter from the training while it runs, but is not
waited for. What that costs is in the due steps of one training, that of `benchmarks.due_step`: they take turns, with
console and JSONL alone and with each tracker beside them, and each is compared with the one of its own round. A library
that is not installed has no row.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import sinks
from benchmarks.due_step import DUE, Kind, train
from benchmarks.examples import torch_threads
from benchmarks.rows import Row, run_alone
from benchmarks.timing import quartiles, ratio
from benchmarks.training_step import QUICK, SIZES, THREADS
from benchmarks.typical_event import typical_event
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Telemetry
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from sinks.null import discard
from sinks.terminal.screen import Screen

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
        with redirect_stderr(nowhere):
            made += _due_steps(quick, Path(folder))
    return made


def _due_steps(quick: bool, stores: Path) -> list[Row]:
    """Measure whole due steps; those in which the trackers are opened are left out."""
    quiet_third_parties()
    built: list[tuple[str, sinks.Sink]] = []

    def kinds_of(checked: Telemetry, folder: Path) -> dict[str, Kind]:
        kinds = {DUE: Kind(checked, is_due=True)}
        for name in NAMES:
            try:
                [(_, sink)] = sinks.build(f"{name}:dir={stores / name}", sinks.SinkContext(str(folder), _RUN, 0, 0))
            except sinks.SinkError:
                continue
            screen = Screen(nowhere, nowhere)
            others = sinks.build("console,jsonl", sinks.SinkContext(str(folder / f"{name}-log"), _RUN, 0, 0, screen))
            built.extend([*others, (name, sink)])
            emit = Pipeline([*others, (name, sink)], run_id=_RUN)
            telemetry = replace(checked, emit=emit, watch=LiveChecks(emit, fails=False))
            kinds[name] = Kind(telemetry, is_due=True)
        return kinds

    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, torch_threads(THREADS):
        turns = train(QUICK if quick else SIZES[-1], rounds=2 if quick else 10, kinds_of=kinds_of)
        for _, sink in built:
            sink.close()  # type: ignore[attr-defined]
    seconds = turns.by_kind(turns.times)
    made = []
    for name in turns.names[1:]:
        lower, upper = quartiles([one / other for one, other in zip(seconds[name], seconds[DUE], strict=True)])
        made.append(
            Row(
                f"due step with {name} (quartiles of the ratio {lower:.3f} to {upper:.3f})",
                1000 * median(seconds[name]),
                "ms",
                f"console and jsonl ({1000 * median(seconds[DUE]):,.0f} ms)",
                ratio(seconds[name], seconds[DUE]),
            )
        )
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
