"""Step time and peak memory of the full-size architecture with random weights, LoRA and batch 1, on a CUDA device.

    python -m benchmarks.full_size_step [--seconds 10] [--gradient_checkpointing]

Nothing is downloaded: `HiggsAudioV2Config` holds the sizes of the 3B checkpoint. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import numpy as np
import torch
from transformers import HiggsAudioV2Config, TrainingArguments

from higgs_audio_trainer.data.batch import Collator, Example, PreparedSample, TokenIds, Vocabulary, build_example
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.emit import Pipeline
from higgs_audio_trainer.model import HiggsAudioForTraining, add_lora
from higgs_audio_trainer.series import Shown
from higgs_audio_trainer.telemetry import Telemetry, due_every
from higgs_audio_trainer.trainer import HiggsAudioTrainer
from higgs_audio_trainer.watch import Watch
from sinks import MemorySink

FRAMES_PER_SECOND = 25
PROMPT_TOKENS = 60
TEXT_TOKENS = 128_000  # below the special tokens
END_OF_TURN = 128_009


def random_example(ids: TokenIds, seconds: float, seed: int) -> Example:
    """Make a sample of random text and codes: a prompt, then a supervised clip."""
    numbers = np.random.default_rng(seed)
    segments = (
        TokenSegment(numbers.integers(0, TEXT_TOKENS, PROMPT_TOKENS), supervised=False),
        TokenSegment(np.array([128_013]), supervised=True),
        TokenSegment(None, supervised=True),
        TokenSegment(np.array([128_012, END_OF_TURN]), supervised=True),
    )
    codes = numbers.integers(0, ids.stream_bos, (ids.num_codebooks, round(seconds * FRAMES_PER_SECOND)))
    return build_example(PreparedSample(f"random-{seed}", segments, ()), [codes], ids)


def vocabulary_of(ids: TokenIds) -> Vocabulary:
    """Name the tokens that end a turn, begin and end a stream, and stand for audio."""
    return Vocabulary((END_OF_TURN,), ids.stream_bos, ids.stream_eos, (ids.audio, ids.audio_delay))


def random_model(config: HiggsAudioV2Config, device: str) -> HiggsAudioForTraining:
    """Make a model with random weights in bfloat16, on the device from the start."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return HiggsAudioForTraining(config)
    finally:
        torch.set_default_dtype(torch.float32)


def measure(
    config: HiggsAudioV2Config, seconds: float, *, device: str, gradient_checkpointing: bool, steps: int = 6
) -> dict[str, Any]:
    """Train some steps, each of them logged, and return what they cost."""
    base = random_model(config, device)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    model = add_lora(base, r=32, alpha=64, dropout=0.05)
    ids = TokenIds(128_001, config.audio_token_id, config.audio_delay_token_id, 1024, 1025, config.num_codebooks)
    memory = MemorySink()
    vocabulary = vocabulary_of(ids)
    emit = Pipeline([("memory", memory)], run_id="r")
    on_cuda = device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = HiggsAudioTrainer(
            telemetry=Telemetry(
                emit,
                is_due=due_every(1),
                evaluations=False,
                shown=Shown(2, 5, (0,), vocabulary, None),
                vocabulary=vocabulary,
                watch=Watch(emit, fails=False),
            ),
            text_loss_weight=1.0,
            model=model,
            args=TrainingArguments(
                folder,
                bf16=True,
                use_cpu=not on_cuda,
                per_device_train_batch_size=1,
                max_steps=steps,
                gradient_checkpointing=gradient_checkpointing,
                remove_unused_columns=False,
                label_names=["labels"],
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                logging_nan_inf_filter=False,
                disable_tqdm=True,
            ),
            data_collator=Collator(ids),
            train_dataset=[random_example(ids, seconds, seed) for seed in range(steps)],
        )
        trainer.train()
    events = memory.named("train_step")
    return {
        "device": torch.cuda.get_device_name() if on_cuda else device,
        "base_parameters": parameters,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "clip_seconds": seconds,
        "gradient_checkpointing": gradient_checkpointing,
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_cuda else None,
        "step_ms": [round(event["step_ms"], 1) for event in events],
        "logging_ms": [round(event["logging_ms"], 2) for event in events],
        "loss": [round(event["loss"], 3) for event in events],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip [%(default)s]")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("expected a CUDA device, got none")
    full_size = HiggsAudioV2Config(codebook_size=1026)
    cost = measure(full_size, given.seconds, device="cuda", gradient_checkpointing=given.gradient_checkpointing)
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
