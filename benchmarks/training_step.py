"""What a training step costs beside one with the native forward and its loss: time, and memory beyond the weights.

    python -m benchmarks.training_step [--quick] [--json FILE]

A step is forward, loss and backward with LoRA, in float32 on the CPU, two threads, at the real vocabulary (128,256) and
4 layers; the batch is one that the trainer makes: 60 tokens of prompt, then speech, B=2, S=512. Ours is
`HiggsAudioForTraining.forward`, theirs `HiggsAudioV2ForConditionalGeneration.forward` over the very same weights,
adapters and labels. Ours computes text and audio logits where there are targets, the native one everywhere. What is
left, the layers, both have to do, and a row of its own says what they cost: no way to train is faster. They grow with
the square of the width, and what ours is spared only with the width; so the ratio belongs to the width, and two are
measured.

The native loss adds up the codebooks where ours takes their mean; else they are the same number: `text_loss + K *
audio_loss` is held against the native loss in every run. The factor does not change what a step costs.

Peak memory is the most that the process held during two steps, less what it held once the model was built and a step of
another, small model had loaded what torch loads late. Each way has a process of its own.
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
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

from benchmarks.examples import torch_threads
from benchmarks.full_size_step import FRAMES_PER_SECOND, PROMPT_TOKENS, random_example, random_model
from benchmarks.rows import Row, run_alone
from benchmarks.timing import interleaved, ratio
from higgs_audio_trainer.data.batch import Collator, TokenIds
from higgs_audio_trainer.training.model import HiggsAudioForTraining, add_lora
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties

THREADS = 2
WAYS = ("ours", "native")
NATIVE = "the native forward and its loss"
_MARKERS = 3  # tokens of `random_example` beside the prompt and the clip's frames
_TOLERANCE = 1e-4  # of losses, relative
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Size:
    """Size of the step.

    Attributes:
        hidden_size, num_layers: of the model.
        batch_size: B.
        length: S.
        rounds: steps of each kind that count.
    """

    hidden_size: int
    num_layers: int = 4
    batch_size: int = 2
    length: int = 512
    rounds: int = 3

    def config(self) -> HiggsAudioV2Config:
        """Return the configuration of the model; vocabulary and codebooks are the real ones."""
        return HiggsAudioV2Config(
            codebook_size=1026,
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.hidden_size // 128,
            num_key_value_heads=max(1, self.hidden_size // 256),
            head_dim=128,
        )


SIZES = (Size(hidden_size=256), Size(hidden_size=1024))
QUICK = Size(hidden_size=128, num_layers=1, length=128, rounds=1)


class Step:
    """A model with adapters and a batch, ready for either kind of step."""

    def __init__(self, size: Size) -> None:
        config = size.config()
        self.codebooks = config.num_codebooks
        base: Any = random_model(config, "cpu")
        self._model: Any = add_lora(base.float(), r=16, alpha=32, dropout=0.0)
        ids = TokenIds(128_001, config.audio_token_id, config.audio_delay_token_id, 1024, 1025, self.codebooks)
        seconds = (size.length - PROMPT_TOKENS - _MARKERS - self.codebooks - 1) / FRAMES_PER_SECOND
        batch = Collator(ids)([random_example(ids, seconds, seed) for seed in range(size.batch_size)])
        self._batch = {name: part for name, part in batch.items() if name not in ("samples", "regions")}
        assert self._batch["input_ids"].shape == (size.batch_size, size.length), "the sizes that the row names"

    def ours(self) -> Any:
        """Take a step as the trainer does."""
        return self._step(HiggsAudioForTraining.forward)

    def native(self) -> Any:
        """Take a step with the forward of transformers."""
        return self._step(HiggsAudioV2ForConditionalGeneration.forward)

    def layers(self) -> Any:
        """Take a step without heads and loss."""
        return self._step(_without_heads)

    def _step(self, forward: Callable[..., Any]) -> Any:
        self._model.zero_grad(set_to_none=True)
        outputs = forward(self._model.base_model.model, **self._batch)
        outputs.loss.backward()
        return outputs


def _without_heads(model: Any, **batch: Tensor) -> SimpleNamespace:
    inputs = {name: part for name, part in batch.items() if not name.endswith("labels")}
    return SimpleNamespace(loss=model.model(**inputs, use_cache=False).last_hidden_state.mean())


def rows(quick: bool = False) -> list[Row]:
    """Measure both ways at each width.

    Raises:
        RuntimeError: the losses are not the same.
    """
    quiet_third_parties()
    return [row for size in ((QUICK,) if quick else SIZES) for row in _rows(size)]


def _rows(size: Size) -> list[Row]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        peaks = dict(zip(WAYS, pool.map(partial(peak_memory, size), WAYS), strict=True))
    with torch_threads(THREADS):
        step = Step(size)
        _compare_losses(step)  # and warm up
        calls = {"ours": step.ours, "native": step.native, "layers": step.layers}
        seconds = interleaved(calls, rounds=size.rounds, warm_up=0)
    where = f"{size.num_layers} layers of width {size.hidden_size}, B={size.batch_size} S={size.length}, CPU"
    ours, layers = (ratio(seconds[name], seconds["native"]) for name in ("ours", "layers"))
    milliseconds = {name: 1000 * median(taken) for name, taken in seconds.items()}
    memory = peaks["ours"] / peaks["native"]
    return [
        Row(f"training step, {where}", milliseconds["ours"], "ms", NATIVE, ours, "at most 0.2", ours <= 1 / 5),
        Row(f"of it the layers, which both ways have, {where}", milliseconds["layers"], "ms", NATIVE, layers),
        Row(
            f"peak memory of the step beyond the weights, {where}",
            peaks["ours"] / _MIB,
            "MiB",
            NATIVE,
            memory,
            "at most 0.333",
            memory <= 1 / 3,
        ),
    ]


def _compare_losses(step: Step) -> None:
    ours, native = step.ours(), step.native().loss.detach()
    same: Tensor = ours.text_loss + step.codebooks * ours.audio_loss
    if not torch.isclose(same, native, rtol=_TOLERANCE):
        raise RuntimeError(f"expected the native loss, {native.item():.6f}, got {same.item():.6f}")


def peak_memory(size: Size, way: str) -> int:
    """Take two steps in this process and return the bytes that they needed beyond the model."""
    quiet_third_parties()
    with torch_threads(THREADS):
        getattr(Step(QUICK), way)()
        step = Step(size)
        before = _peak_since_reset()
        for _ in range(2):  # the second finds what the first left
            getattr(step, way)()
        return _peak() - before


def _peak_since_reset() -> int:
    """Forget the peak so far where the system can, and return what is held, or the peak so far where it cannot."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss, which begins with what the process that started this one held.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, "Linux tells it"
    return 1024 * int(found[1])


if __name__ == "__main__":
    run_alone(rows, __doc__)
