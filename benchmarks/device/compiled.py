"""The compiled forward of the trainer beside the forward that is not compiled, at full size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch._dynamo.utils import counters

from benchmarks.device.full_size import FullSize, measured_peak, step_rows
from benchmarks.device.plan import Plan
from benchmarks.rows import ResultRow
from higgs_audio_trainer.training.compilation import compile_for_every_shape


def compiled(plan: Plan) -> Iterator[ResultRow]:
    """Measure the compilation, the number of graphs, and steps of each batch size."""
    compile_for_every_shape()
    peak, model = measured_peak(plan), FullSize(plan)
    took = 0.0  # of the compilation before, as an estimate of the next
    for checkpointing in plan.checkpointing:
        name = f"torch.compile, checkpointing {'on' if checkpointing else 'off'}"
        if not plan.has_time(took):
            yield ResultRow(name, None, "skipped", against="the time is used up")
            continue
        torch._dynamo.reset()  # noqa: SLF001 - the documented way to begin anew
        counters.clear()
        model.set_checkpointing(on=checkpointing)
        forward: Any = torch.compile(model.base, dynamic=True, backend=plan.compiler)
        began = time.monotonic()
        try:
            model.step(forward, model.batch(plan.batch_sizes[0])[0])
        except torch.OutOfMemoryError:
            yield ResultRow(name, None, "out of memory")
            plan.free()
            continue
        took = time.monotonic() - began
        yield ResultRow(f"{name}, compilation and first step", took, "s")
        for batch_size in plan.batch_sizes:
            where = f"B={batch_size}, {plan.clip_seconds:g} s clips, {name}"
            batch, flops = model.batch(batch_size)
            taken = model.compare({"compiled": forward, "ours": model.base.forward}, batch)
            yield from step_rows(
                taken,
                where,
                audio=batch_size * plan.clip_seconds,
                flops=flops,
                peak=peak,
                weights=model.weights,
                names=("compiled", "ours"),
                against="not compiled",
            )
        yield ResultRow(f"{name}, graphs", counters["stats"]["unique_graphs"], "graphs")
        yield ResultRow(f"{name}, graph breaks", sum(counters["graph_break"].values()), "breaks")
