"""Synchronisations of host and device in a due and in an undue step, and the lines of code that cause them.

`torch.cuda.set_sync_debug_mode` reports the operations of torch that wait. The profile of a step also counts the calls
of CUDA that wait or copy, whoever calls.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device.logged import trainer_of
from benchmarks.device.plan import Plan
from benchmarks.pipelines import hidden_pipeline, recorder_of
from benchmarks.rows import ResultRow
from benchmarks.workload import add_lora, random_model
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties

_OURS = "higgs_audio_trainer"
_PACKAGES = (_OURS, "torch", "transformers", "accelerate", "peft")
_STEPS = 9
_FIRST = 4  # the steps before build lazily what later steps have
_PROFILED = {6: "due", 7: "undue"}  # number of the step: kind of the step
_WAITS = ("Synchronize", "Memcpy DtoH", "Memcpy HtoD (Pageable")
_MOST = {"due": 1, "undue": 0}
_BATCH_SIZE = 2


def synchronisations(plan: Plan) -> Iterator[ResultRow]:
    """Count the synchronisations of each kind of step, then the calls of CUDA in a profile of each kind."""
    quiet_third_parties()
    base: Any = random_model(HiggsAudioForTraining, plan.narrow, plan.device)
    model = add_lora(base, r=16, alpha=32, dropout=0.0)
    counted = CountedSteps()
    with counted.recording(cuda=plan.on_cuda):
        _train(plan, model, counted.begin)
    for kind, most in _MOST.items():
        steps = [places for step, places in counted.by_step.items() if _is_counted(step) and _kind(step) == kind]
        number = sum(sum(places.values()) for places in steps) / len(steps)
        name = f"synchronisations of a step, {kind}"
        yield ResultRow(name, number, "", target=f"at most {most}", holds=number <= most)
        for place, count in sum(steps, Counter()).most_common():
            yield ResultRow(f"synchronisations of a step, {kind}, in {place}", count / len(steps), "")
    yield from _profiles(plan, model)


def _is_counted(step: int) -> bool:
    return _FIRST <= step < _STEPS  # the end of the training belongs to the last step


def _kind(step: int) -> str:
    return "undue" if step % 2 else "due"


def _train(plan: Plan, model: Any, begin: Callable[[int], object]) -> None:
    """Train steps that are due and undue in turns, and call a function at the beginning of each step."""

    def is_logged(step: int) -> bool:
        begin(step)
        return _kind(step) == "due"

    with TemporaryDirectory() as folder, hidden_pipeline(folder) as emit:
        trainer_of(plan, plan.narrow, model, _BATCH_SIZE, recorder_of(emit, is_logged), folder, _STEPS).train()


class CountedSteps:
    """Counts the warnings about synchronisations by step and place.

    Attributes:
        by_step: Number of synchronisations by place, for each step.
    """

    def __init__(self) -> None:
        self.by_step: dict[int, Counter[str]] = {}
        self._step = 0

    def begin(self, step: int) -> None:
        """Begin a step."""
        self._step = step
        self.by_step[step] = Counter()

    @contextmanager
    def recording(self, *, cuda: bool) -> Iterator[None]:
        """Count in the block, with the debug mode of torch on a CUDA device."""
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self._add  # type: ignore[assignment]  # takes any arguments
            if cuda:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                if cuda:
                    torch.cuda.set_sync_debug_mode("default")

    def _add(self, message: object, *_: object) -> None:
        if self._step and "synchroniz" in str(message):
            self.by_step[self._step][place_of(traceback.extract_stack())] += 1


def place_of(stack: Sequence[traceback.FrameSummary]) -> str:
    """Return the innermost line of a stack, and the innermost line of this package if another package waits.

    Example:
        >>> frame = traceback.FrameSummary
        >>> place_of([frame("/a/higgs_audio_trainer/run.py", 9, "f"), frame("/b/torch/nn/functional.py", 3, "g")])
        'torch/nn/functional.py:3 from higgs_audio_trainer/run.py:9'
    """
    frames = [frame for frame in stack if frame.filename not in (__file__, warnings.__file__)]
    inner = frames[-1]
    ours = next((frame for frame in reversed(frames) if _OURS in Path(frame.filename).parts), inner)
    return _line(inner) if ours is inner else f"{_line(inner)} from {_line(ours)}"


def _line(frame: traceback.FrameSummary) -> str:
    parts = Path(frame.filename).parts
    package = next((index for index, part in enumerate(parts) if part in _PACKAGES), len(parts) - 1)
    return f"{'/'.join(parts[package:])}:{frame.lineno}"


def _profiles(plan: Plan, model: Any) -> Iterator[ResultRow]:
    """Profile one step of each kind, and yield the number of calls and copies that may wait."""
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * plan.on_cuda]
    found: dict[str, profile] = {}
    running: list[profile] = []

    def begin(step: int) -> None:
        if running:
            running.pop().stop()
        if step in _PROFILED:
            found[_PROFILED[step]] = profile(activities=activities)
            running.append(found[_PROFILED[step]])
            running[0].start()

    _train(plan, model, begin)
    for kind, profiled in found.items():
        calls = Counter({event.key: event.count for event in profiled.key_averages()})
        waits = {key: count for key, count in calls.items() if any(mark in key for mark in _WAITS)}
        yield ResultRow(f"profile of a step, {kind}, operations", sum(calls.values()), "calls")
        for key, count in sorted(waits.items()):
            yield ResultRow(f"profile of a step, {kind}, {key}", count, "calls")
