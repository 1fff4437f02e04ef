"""Cost of a tracker for the training: the added time of `emit` and of a logged step.

    python -m benchmarks.trackers

The call of a tracker's sink inspects the record and queues the record for a thread. The floor is the same pipeline with
a sink that discards records. The time of the thread is a separate row. The training does not wait for the thread, but
shares the interpreter with the thread. Logged steps of one training (see `benchmarks.logged_step`) show the effect.
Steps with console and JSONL alone take turns with steps that add each tracker, and each step is compared with the step
of the same round without trackers. Trackers that are not installed have no rows.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import sinks
from benchmarks.logged_step import LOGGED, train
from benchmarks.pipelines import hidden_screen, recorder_of
from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import ratio, ratio_quartiles, seconds_of
from benchmarks.training_step import QUICK, SIZES, THREADS
from benchmarks.typical_event import typical_event
from benchmarks.workload import torch_threads
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import every
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from sinks.null import discard

NAMES = ("trackio", "tensorboard", "wandb", "mlflow")
_RUN = "0" * 26


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure each tracker and the floor in turns, with two rows per tracker, then logged steps."""
    rounds, calls = (2, 20) if quick else (9, 200)
    made = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stderr(nowhere),
    ):
        for name in NAMES:
            made += _emit_rows(name, Path(folder), rounds, calls)
        return [*made, *_logged_steps(quick, Path(folder))]


def _logged_steps(quick: bool, stores: Path) -> list[ResultRow]:
    """Measure whole logged steps. The warm-up rounds open the trackers and are not counted."""
    quiet_third_parties()
    built: list[tuple[str, sinks.Sink]] = []

    def recorders_of(pipeline: Pipeline, folder: Path) -> dict[str, Recorder]:
        recorders = {LOGGED: recorder_of(pipeline, every(1))}
        for name in NAMES:
            try:
                [(_, sink)] = sinks.build(f"{name}:dir={stores / name}", sinks.SinkContext(str(folder), _RUN, 0, 0))
            except sinks.SinkError:
                continue
            others = sinks.build("console,jsonl", sinks.SinkContext(str(folder / f"{name}-log"), _RUN, 0, 0, screen))
            built.extend([*others, (name, sink)])
            emit = Pipeline([*others, (name, sink)], run_id=_RUN)
            recorders[name] = recorder_of(emit, every(1))
        return recorders

    with hidden_screen() as screen, torch_threads(THREADS):
        turns = train(QUICK if quick else SIZES[-1], rounds=2 if quick else 10, recorders_of=recorders_of)
        for _, sink in built:
            sink.close()  # type: ignore[attr-defined]
    seconds = turns.by_kind(turns.times)
    made = []
    for name in turns.names[1:]:
        lower, upper = ratio_quartiles(seconds[name], seconds[LOGGED])
        made.append(
            ResultRow(
                f"logged step with {name} (quartiles of the ratio {lower:.3f} to {upper:.3f})",
                1000 * median(seconds[name]),
                "ms",
                f"console and jsonl ({1000 * median(seconds[LOGGED]):,.0f} ms)",
                ratio(seconds[name], seconds[LOGGED]),
            )
        )
    return made


def _emit_rows(name: str, folder: Path, rounds: int, calls: int) -> list[ResultRow]:
    """Measure `emit` with one tracker. Return no rows if the tracker is not installed."""
    event = typical_event()
    floor = Pipeline([("null", discard)], run_id=_RUN)
    taken: list[float] = []
    floors: list[float] = []
    handed: list[float] = []
    for turn in range(rounds + 1):
        try:
            context = sinks.SinkContext(str(folder), f"{_RUN}{turn}", 0, 0)
            [(_, sink)] = sinks.build(f"{name}:dir={folder / name}", context)
        except sinks.SinkError:
            return []
        emit = Pipeline([(name, sink)], run_id=f"{_RUN}{turn}")
        floor_s = seconds_of(partial(floor, event), calls)
        call_s = seconds_of(partial(emit, event), calls)
        began = perf_counter()
        sink.close()  # type: ignore[attr-defined]
        if turn:
            floors.append(floor_s)
            taken.append(call_s)
            handed.append((perf_counter() - began) / calls)
    added = [1e6 * (one - least) for one, least in zip(taken, floors, strict=True)]
    against = f"no sink ({1e6 * median(floors):.1f} µs)"
    return [
        ResultRow(f"emit with {name}, added time of the call", median(added), "µs", against, ratio(taken, floors)),
        ResultRow(f"thread of {name}, time per event with open and close", 1e6 * median(handed), "µs"),
    ]


if __name__ == "__main__":
    run_alone(rows, __doc__)
