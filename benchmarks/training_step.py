"""Time and memory of a training step beside a step with the native forward and loss of transformers.

    python -m benchmarks.training_step [--quick] [--json FILE]

A step is forward, loss and backward with LoRA, in float32 on the CPU, two threads, at the real vocabulary (128,256) and
4 layers. The batch is made by the trainer's collator: 60 prompt tokens, then speech; two samples of equal length, or
eight clips of 2 to 12 seconds. Our step is `HiggsAudioForTraining.forward` along the route of the batch. The native
step is `HiggsAudioV2ForConditionalGeneration.forward` over the same weights, adapters and labels, with logits at every
position, and masks over the padded batch. The third step lies between both: native layers, and our heads at supervised
rows alone. The cost of the layers grows with the square of the width, the saved logits only with the width. The ratio
therefore depends on the width, and two widths are measured.

The native loss is the sum over the codebooks, our loss the mean. Every run checks that `text_loss + K * audio_loss`
equals the native loss. The factor K does not change the cost of a step.

Peak memory is the largest memory of the process during two steps, minus the memory after the model is built and a small
model has taken one step, which loads the lazy parts of torch. Each implementation runs in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

from benchmarks.host_waits import HostWaits
from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import interleaved, ratio
from benchmarks.workload import add_lora, random_example, random_model, token_ids, tokens_around, torch_threads
from higgs_audio_trainer.data.batch import FOR_THE_LOG, Collator, Example, TokenIds
from higgs_audio_trainer.families.v2.backbone import RoutedBackbone
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties

THREADS = 2
WAYS = ("ours", "native")
NATIVE = "native forward and loss"
MASKED = "native layers, our heads"
PROMPT_TOKENS = 60
_TOLERANCE = 1e-4  # relative difference of losses
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class StepSize:
    """Size of a step.

    Attributes:
        hidden_size: Width of the model.
        num_layers: Layers of the model.
        batch_size: Samples of the batch, B.
        length: Tokens of the longest sequence, S.
        shortest: Tokens of the shortest sequence; the others lie evenly between both. None for equal lengths.
        rounds: Counted steps of each kind.
        most: Targets by row: largest ratio to the native step, to native layers with our heads, and of peak memory.
    """

    hidden_size: int
    num_layers: int = 4
    batch_size: int = 2
    length: int = 512
    shortest: int | None = None
    rounds: int = 3
    most: tuple[float | None, float | None, float | None] = (None, None, None)

    def config(self) -> HiggsAudioV2Config:
        """Return the configuration of the model, with the real vocabulary and codebooks."""
        return HiggsAudioV2Config(
            codebook_size=1026,
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.hidden_size // 128,
            num_key_value_heads=max(1, self.hidden_size // 256),
            head_dim=128,
        )

    def examples(self, ids: TokenIds) -> list[Example]:
        """Return the samples of the batch.

        Example:
            >>> from benchmarks.workload import token_ids
            >>> [len(example.input_ids) for example in QUICK.examples(token_ids(QUICK.config()))]
            [128, 128]
        """
        around = PROMPT_TOKENS + tokens_around(ids.num_codebooks)
        lengths = np.linspace(self.shortest or self.length, self.length, self.batch_size).astype(int)
        return [
            random_example(ids, prompt=PROMPT_TOKENS, frames=int(length) - around, seed=seed)
            for seed, length in enumerate(lengths)
        ]

    def describe(self) -> str:
        """Return the size in words, for the names of rows."""
        lengths = f"S={self.length}" if self.shortest is None else f"S={self.shortest} to {self.length}"
        return f"{self.num_layers} layers of width {self.hidden_size}, B={self.batch_size} {lengths}, CPU"


_TWO_SECONDS = PROMPT_TOKENS + 50 + 12  # with the markers and the delay pattern of 8 codebooks
SIZES = (
    StepSize(hidden_size=256, most=(0.2, None, 0.28)),
    StepSize(hidden_size=1024, most=(0.25, None, 0.28)),
    StepSize(hidden_size=1024, batch_size=8, length=_TWO_SECONDS + 250, shortest=_TWO_SECONDS, most=(0.35, 0.6, 0.28)),
)
QUICK = StepSize(hidden_size=128, num_layers=1, length=128, rounds=1)


class ComparedStep:
    """Model with adapters and a batch, for our step, the native step, and native layers with our heads."""

    def __init__(self, size: StepSize) -> None:
        config = size.config()
        self.codebooks = config.num_codebooks
        base: Any = random_model(HiggsAudioForTraining, config, "cpu")
        self._model: Any = add_lora(base.float(), r=16, alpha=32, dropout=0.0)
        ids = token_ids(config)
        batch = Collator(ids)(size.examples(ids))
        self._batch = {name: part for name, part in batch.items() if name not in FOR_THE_LOG}
        assert self._batch["input_ids"].shape == (size.batch_size, size.length), "rows name this shape"

    def ours(self) -> None:
        """Take a step with the forward of the trainer."""
        self._step(HiggsAudioForTraining.forward)

    def native(self) -> None:
        """Take a step with the forward of transformers."""
        self._step(HiggsAudioV2ForConditionalGeneration.forward)

    def masked(self) -> None:
        """Take a step with the native layers and our heads."""
        self._step(_native_layers)

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return our loss as the native loss is defined, and the native loss."""
        with torch.no_grad():
            ours = HiggsAudioForTraining.forward(self._model.base_model.model, **self._batch)
            native = HiggsAudioV2ForConditionalGeneration.forward(self._model.base_model.model, **self._batch)
        return ours.text_loss + self.codebooks * ours.audio_loss, native.loss

    def _step(self, forward: Callable[..., Any]) -> None:
        self._model.zero_grad(set_to_none=True)
        forward(self._model.base_model.model, **self._batch).loss.backward()  # frees the logits first, as trainers do


def _native_layers(model: Any, **batch: Any) -> Any:
    route = batch["route"]
    inputs = {name: part for name, part in batch.items() if name != "route" and not name.endswith("labels")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1).index_select(0, route["places"])
    with mock.patch.object(RoutedBackbone, "forward", return_value=hidden):
        return model(**batch)


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure our step and the native step at each width.

    Raises:
        RuntimeError: The losses differ.
    """
    quiet_third_parties()
    return [row for size in ((QUICK,) if quick else SIZES) for row in _rows(size)]


def _rows(size: StepSize) -> list[ResultRow]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        peaks = dict(zip(WAYS, pool.map(partial(peak_memory, size), WAYS), strict=True))
    with torch_threads(THREADS):
        step = ComparedStep(size)
        _compare_losses(step)
        calls = {"ours": step.ours, "native": step.native, "masked": step.masked}
        seconds = interleaved(calls, rounds=size.rounds)
        with HostWaits() as waits:
            step.ours()
        with HostWaits() as native_waits:
            step.native()
    where, taken = size.describe(), 1000 * median(seconds["ours"])
    found = sum(waits.counts.values())
    return [
        _at_most(
            f"training step, {where}", taken, "ms", NATIVE, ratio(seconds["ours"], seconds["native"]), size.most[0]
        ),
        _at_most(
            f"training step, {where}", taken, "ms", MASKED, ratio(seconds["ours"], seconds["masked"]), size.most[1]
        ),
        _at_most(
            f"peak memory of the step beyond the weights, {where}",
            peaks["ours"] / _MIB,
            "MiB",
            NATIVE,
            peaks["ours"] / peaks["native"],
            size.most[2],
        ),
        ResultRow(
            f"operations of a step that the host waits for, {where}",
            found,
            "operations",
            f"{NATIVE} ({sum(native_waits.counts.values())} operations)",
            target="0",
            holds=found == 0,
        ),
    ]


def _at_most(name: str, figure: float, unit: str, against: str, measured: float, most: float | None) -> ResultRow:
    target = "" if most is None else f"at most {most}"
    return ResultRow(name, figure, unit, against, measured, target, None if most is None else measured <= most)


def _compare_losses(step: ComparedStep) -> None:
    ours, native = step.losses()
    if not torch.isclose(ours, native, rtol=_TOLERANCE):
        raise RuntimeError(f"expected the native loss {native.item():.6f}, got {ours.item():.6f}")


def peak_memory(size: StepSize, way: str) -> int:
    """Take two steps in this process and return the peak memory beyond the model, in bytes.

    Args:
        size: Size of the step.
        way: "ours" or "native".
    """
    quiet_third_parties()
    with torch_threads(THREADS):
        getattr(ComparedStep(QUICK), way)()
        step = ComparedStep(size)
        before = _peak_since_reset()
        for _ in range(2):  # the second step meets the garbage of the first
            getattr(step, way)()
        return _peak() - before


def _peak_since_reset() -> int:
    """Reset the peak on Linux and return the memory in use. Elsewhere return the peak so far."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # ru_maxrss would include the memory of the parent process.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, "every Linux has VmHWM"
    return 1024 * int(found[1])


if __name__ == "__main__":
    run_alone(rows, __doc__)
