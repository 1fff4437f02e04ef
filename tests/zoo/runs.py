"""Trainings of a very small model for the zoo, real from the manifest to the last event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.demo.faults import PlantedFault
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.families.known import DEFAULT_FAMILY
from higgs_audio_trainer.families.tiny_size import TinySize
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from sinks import MemorySink

DEFAULTS = {"batch_size": 8, "grad_accum": 1, "lora_dropout": 0.0, "lr": 1e-2, "save_steps": 1000, "sinks": "none"}


class Base(NamedTuple):
    """A checkpoint and its codec."""

    model: Path
    codec: Path


def write_base(
    folder: Path, codebooks: int, *, seed: int = 0, family: str = DEFAULT_FAMILY, spread: float | None = None
) -> Base:
    """Write a base checkpoint of two narrow layers, whose random weights have a spread."""
    quiet_third_parties()  # a progress bar for each file would hide the output of the scripts
    return Base(
        *write_tiny(
            folder,
            TinySize(hidden_size=64, layers=2, codebooks=codebooks, initializer_range=spread),
            family=family,
            seed=seed,
        )
    )


def train(base: Base, manifest: Path, folder: Path, *, fault: PlantedFault | None = None, **changes: Any) -> MemorySink:
    """Train and return the events."""
    memory = MemorySink()
    settings = TrainSettings(
        base_ckpt=str(base.model),
        audio_tokenizer=str(base.codec),
        train_manifest=str(manifest),
        output_dir=str(folder),
        **(DEFAULTS | {"codes_dir": str(base.codec / "codes")} | dict(fault.settings if fault else {}) | changes),
    )
    if fault and fault.evaluates:
        settings = replace(settings, eval_manifest=str(manifest))
    with fault.planted() if fault else nullcontext():
        run_training(settings, more_sinks=[("memory", memory)], say=lambda text: None)
    return memory


def found(memory: MemorySink) -> Sequence[Mapping[str, Any]]:
    """Return the diagnoses without the mask audit."""
    return [event for event in memory.named("diagnosis") if event["code"] != "mask_audit"]


def alarms(memory: MemorySink) -> Sequence[Mapping[str, Any]]:
    """Return the diagnoses of severity warning or error."""
    return [event for event in memory.named("diagnosis") if event["severity"] != "note"]
