"""The compiled forward of the trainer beside the forward that is not compiled, at the full width and at full size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch._dynamo.utils import counters

from benchmarks.device.full_size import FullSize, measured_peak, step_rows
from benchmarks.device.plan import Plan
from benchmarks.rows import ResultRow
from higgs_audio_trainer.training.compilation import compile_for_every_shape


def compiled(plan: Plan) -> Iterator[ResultRow]:
    """Measure the compilation, the number of graphs, and steps of each batch size, first with few layers."""
    compile_for_every_shape()
    peak = measured_peak(plan)
    seconds_of_a_layer = 0.0  # of the compilation before, as an estimate of the next
    for layers in plan.compiled_layers:
        config = deepcopy(plan.full)
        config.num_hidden_layers = layers
        smaller = replace(plan, full=config)
        model = None
        for checkpointing in plan.checkpointing:
            name = f"torch.compile, {layers} layers, checkpointing {'on' if checkpointing else 'off'}"
            expected = layers * seconds_of_a_layer
            if not plan.has_time(expected):
                yield ResultRow(name, None, "skipped", against=f"expected up to {expected:.0f} s, more than are left")
                continue
            model = model or FullSize(smaller)
            model.set_checkpointing(on=checkpointing)
            began = time.monotonic()
            try:
                forward = _compilation(smaller, model)
            except torch.OutOfMemoryError:
                yield ResultRow(name, None, "out of memory")
                plan.free()
                continue
            took = time.monotonic() - began
            seconds_of_a_layer = took / layers
            yield ResultRow(f"{name}, compilation and first step", took, "s")
            yield from _step_rows(smaller, model, forward, name, peak)
        del model
        plan.free()


def _compilation(plan: Plan, model: FullSize) -> Any:
    """Return the compiled forward after a step, which compiles forward and backward."""
    torch._dynamo.reset()  # noqa: SLF001 - the documented way to begin anew
    counters.clear()
    forward: Any = torch.compile(model.base, dynamic=True, backend=plan.compiler)
    model.step(forward, model.batch(plan.batch_sizes[0])[0])
    return forward


def _step_rows(plan: Plan, model: FullSize, forward: Any, name: str, peak: float) -> Iterator[ResultRow]:
    for batch_size in plan.batch_sizes:
        batch, flops = model.batch(batch_size)
        taken = model.compare({"compiled": forward, "ours": model.base.forward}, batch)
        yield from step_rows(
            taken,
            f"B={batch_size}, {plan.clip_seconds:g} s clips, {name}",
            audio=batch_size * plan.clip_seconds,
            flops=flops,
            peak=peak,
            weights=model.weights,
            names=("compiled", "ours"),
            against="not compiled",
        )
    yield ResultRow(f"{name}, graphs", counters["stats"]["unique_graphs"], "graphs")
    yield ResultRow(f"{name}, graph breaks", sum(counters["graph_break"].values()), "breaks")
