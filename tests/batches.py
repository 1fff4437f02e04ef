"""Batches and trainers for the tests of model, extraction and trainer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data.batch import FOR_THE_LOG, Collator, Example, PreparedSample, build_example
from higgs_audio_trainer.data.manifest import Clip, Sample, Turn
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.pipeline.emit import NullPipeline
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RecorderSettings, never
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from tests.families import training_model

WORDS = ("tea", "kettle", "صباح", "الخير", "window", "rain", "harbour", "هادئ")


def silent() -> Recorder:
    """Return a recorder that records nothing, like `--sinks none`."""
    return Recorder(NullPipeline(), RecorderSettings(never, 8, None, evaluations=False))


def random_sample(rng: random.Random, index: int) -> tuple[Sample, list[int]]:
    """Make a conversation of one to three assistant turns, and the frames of the turns' clips."""
    turns = [Turn("system", ("Generate audio following instruction.",))]
    frames = []
    for number in range(rng.randint(1, 3)):
        turns.append(Turn("user", (" ".join(rng.choices(WORDS, k=rng.randint(1, 6))),)))
        parts: list[str | Clip] = [] if rng.random() < 0.7 else [" ".join(rng.choices(WORDS, k=rng.randint(1, 4)))]
        if not parts or rng.random() < 0.5:
            parts.append(Clip(Path(f"{index}-{number}.wav"), encoded=False))
            frames.append(rng.randint(1, 14))
        turns.append(Turn("assistant", tuple(parts), supervised=rng.random() < 0.8))
    turns[-1] = Turn("assistant", turns[-1].parts, supervised=True)
    return Sample(f"s{index}", tuple(turns), f"m.jsonl:{index + 1}"), frames


def random_line(rng: random.Random, index: int) -> tuple[Sample, list[int]]:
    """Make a sample as of a line of the simple form, half of them with a reference, and the frames of its clips."""
    turns, frames = [Turn("system", ("Generate audio following instruction.",))], []
    if rng.random() < 0.5:
        turns += [Turn("user", (" ".join(rng.choices(WORDS, k=rng.randint(1, 4))),))] * (rng.random() < 0.7)
        turns.append(Turn("assistant", (Clip(Path(f"{index}-reference.wav"), encoded=False),)))
        frames.append(rng.randint(1, 14))
    turns.append(Turn("user", (" ".join(rng.choices(WORDS, k=rng.randint(1, 6))),)))
    turns.append(Turn("assistant", (Clip(Path(f"{index}.wav"), encoded=False),), supervised=True))
    frames.append(rng.randint(1, 14))
    return Sample(f"s{index}", tuple(turns), f"m.jsonl:{index + 1}"), frames


#: Samples with all that a family can hold.
SAMPLES = {"higgs-audio-v2": random_sample, "higgs-tts-3": random_line}


def random_examples(checkpoint: BaseCheckpoint, count: int, seed: int = 0) -> list[Example]:
    """Make ragged examples, some with reference speech, and of v2 some with text as a training target."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    examples = []
    for index in range(count):
        sample, frames = SAMPLES[checkpoint.family.name](rng, index)
        prepared = PreparedSample(sample.id, tuple(checkpoint.tokenize(sample)), ())
        codes = [numbers.integers(0, 1024, (checkpoint.ids.num_codebooks, length)) for length in frames]
        examples.append(build_example(prepared, codes, checkpoint.ids))
    return examples


def collate(checkpoint: BaseCheckpoint, examples: Sequence[Example]) -> dict[str, Any]:
    """Make a batch."""
    return Collator(checkpoint.ids)(examples)


def tensors(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Select the inputs of the model."""
    return {name: value for name, value in batch.items() if name not in FOR_THE_LOG}


def lora_model(model_dir: Path, *, dropout: float = 0.0, seed: int = 0) -> Any:
    """Load the tiny model with adapters whose B is not zero, so that all adapter weights have gradients."""
    torch.manual_seed(seed)
    model = add_lora(training_model(open_checkpoint(str(model_dir))), r=4, alpha=8, dropout=dropout)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def make_trainer(
    checkpoint: BaseCheckpoint,
    model: Any,
    examples: Sequence[Example],
    output_dir: Path,
    recorder: Recorder | None = None,
    **arguments: Any,
) -> HiggsAudioTrainer:
    """Make a trainer on examples, by default on the CPU and without gradient clipping."""
    return HiggsAudioTrainer(
        recorder=recorder or silent(),
        vocabulary=checkpoint.vocabulary,
        text_loss_weight=1.0,
        model=model,
        args=training_arguments(output_dir, **arguments),
        data_collator=Collator(checkpoint.ids),
        train_dataset=list(examples),
        eval_dataset=list(examples),
    )


def training_arguments(output_dir: Path, **arguments: Any) -> TrainingArguments:
    """Make training arguments, by default for the CPU and without gradient clipping."""
    defaults: dict[str, Any] = {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "max_grad_norm": 0.0,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "seed": 7,
    }
    return TrainingArguments(**(defaults | arguments))
