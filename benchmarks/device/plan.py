"""Sizes of the device check, and the measurements that depend on the kind of device."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import HiggsAudioV2Config

from benchmarks.workload import published_config, random_example
from higgs_audio_trainer.data.batch import Example, TokenIds
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config

FRAMES_PER_SECOND = 25
GIB = 2**30
RECORDINGS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
_TRACKERS = ("trackio", "tensorboard", "wandb", "mlflow")
_MARGIN_S = 5.0


def narrow_config() -> HiggsAudioV2Config:
    """Return a configuration of 4 layers of width 1024, in which a step does what a full-size step does."""
    return HiggsAudioV2Config(
        codebook_size=1026,
        hidden_size=1024,
        intermediate_size=2048,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and repetitions of the device check.

    Attributes:
        device: "cuda", or "cpu" to test the check itself.
        full: Configuration of the measured steps.
        tts3: Configuration of the measured steps of Higgs TTS 3.
        narrow: Configuration of the steps whose synchronisations are counted.
        clip_seconds: Length of each clip, in seconds.
        prompt_tokens: Prompt tokens before each clip.
        batch_sizes: Samples of a batch, B.
        checkpointing: Settings of gradient checkpointing to measure.
        rounds: Counted rounds of each comparison.
        steps: Counted steps of each compared training.
        demo_steps: Steps of the trainings of the tiny model.
        prompts: Number of recorded prompts.
        matrix: Rows and columns of the multiplied matrices of the measured peak.
        trackers: Trackers whose sinks take part.
        recordings: Folder of the recorded prompts.
        tests: Arguments of pytest. The demo shows by itself what the tests of previews show.
        compiler: Backend of `torch.compile`.
        compiled_layers: Numbers of layers of the compiled models. A small model shows something early.
        deadline: `time.monotonic()` at the end of the part's time.
    """

    device: str = "cuda"
    full: HiggsAudioV2Config = field(default_factory=partial(published_config, "higgs-audio-v2"))
    tts3: HiggsTts3Config = field(default_factory=partial(published_config, "higgs-tts-3"))
    narrow: HiggsAudioV2Config = field(default_factory=narrow_config)
    clip_seconds: float = 10.0
    prompt_tokens: int = 60
    batch_sizes: tuple[int, ...] = (1, 4, 8)
    checkpointing: tuple[bool, ...] = (False, True)
    rounds: int = 5
    steps: int = 6
    demo_steps: int = 60
    prompts: int = 80
    matrix: int = 8192
    trackers: tuple[str, ...] = tuple(name for name in _TRACKERS if find_spec(name))
    recordings: Path = RECORDINGS
    tests: tuple[str, ...] = ("-m", "cuda", "tests/cuda", "--ignore=tests/cuda/test_previews.py")
    compiler: str = "inductor"
    compiled_layers: tuple[int, ...] = (2, 28)
    deadline: float = math.inf

    @property
    def on_cuda(self) -> bool:
        """True on a CUDA device."""
        return self.device == "cuda"

    def has_time(self, seconds: float = 0.0) -> bool:
        """Return True if the part has time for a measurement that takes some seconds."""
        return time.monotonic() + seconds + _MARGIN_S < self.deadline

    def examples(self, ids: TokenIds, batch_size: int) -> list[Example]:
        """Return the samples of a batch."""
        frames = round(self.clip_seconds * FRAMES_PER_SECOND)
        return [random_example(ids, prompt=self.prompt_tokens, frames=frames, seed=seed) for seed in range(batch_size)]

    def synchronize(self) -> None:
        """Wait until the device has done all work."""
        if self.on_cuda:
            torch.cuda.synchronize()

    def measured(self, call: Callable[[], object]) -> tuple[float, int]:
        """Return the seconds of a call with the work of the device, and the peak memory in bytes; 0 on the CPU."""
        self.synchronize()
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        call()
        self.synchronize()
        seconds = time.perf_counter() - began
        return seconds, torch.cuda.max_memory_allocated() if self.on_cuda else 0

    def free(self) -> None:
        """Return unused memory to the device."""
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()


def plan_of(*, quick: bool, deadline: float) -> Plan:
    """Return the plan of a run on the CUDA device.

    Args:
        quick: Measure the smallest batch, a few times.
        deadline: `time.monotonic()` at the end of the part's time.
    """
    if quick:
        return Plan(batch_sizes=(1,), rounds=2, steps=2, demo_steps=20, deadline=deadline)
    return Plan(deadline=deadline)
