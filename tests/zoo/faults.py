"""Trainings with planted faults, and the expected findings."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.demo.run import CLIPS
from higgs_audio_trainer.families.known import DEFAULT_FAMILY
from sinks import MemorySink
from tests.zoo.runs import train, write_base

#: Correct additional findings at warning or above: labels without a stop token; silence that does not tell its length;
#: the end of a schedule that is too short.
ALSO = {
    "shifted_minus_1": {"no_stop_target"},
    "zeroed_clips": {"never_stops"},
    "stepped_twice": {"rate_exhausted"},
}
#: Faults that show only after some learning, with the latest step. All other faults are found at step 1.
LEARNED = {
    "codebook_shuffled": 60,
    "stop_unlearned": 60,
    "lr_x1000": 6,
    "stepped_twice": 24,
    "short_schedule": 24,
    "base_evaluated": 12,
}
#: Expected severity of a fault's finding. All other findings are errors.
MILDER = {
    **dict.fromkeys(("duplicate_samples", "constant_sample", "dead_codebook", "masked_out"), "warning"),
    **dict.fromkeys(("schedule_mismatch", "rate_exhausted", "flat_evaluation"), "warning"),
    "stop_never_predicted": "note",  # a warning needs more steps than a test may take
}
_CODEBOOKS = 4
#: Settings with which the model memorizes the bundled clips in 30 steps, and speaks them. Two codebooks are enough.
SPEAKING = {"max_steps": 40, "log_steps": 5, "lora_r": 32, "lora_alpha": 64}
#: Faults that are heard in the speech of the trained model.
HEARD = [name for name, fault in FAULTS.items() if fault.heard_by]
#: Those that nothing else shows.
ONLY_HEARD = [name for name in HEARD if FAULTS[name].heard_by == FAULTS[name].found_by]


def planted_in(family: str, names: Iterable[str]) -> list[str]:
    """Return the names of the faults that can be planted in a training of a family."""
    return [name for name in names if family not in FAULTS[name].not_for]


def plant(
    name: str,
    folder: Path,
    codes_dir: Path,
    *,
    codebooks: int = _CODEBOOKS,
    family: str = DEFAULT_FAMILY,
    spread: float | None = 0.1,
    **settings: Any,
) -> MemorySink:
    """Train on the bundled clips with a planted fault and return the events.

    Args:
        name: Name of the fault, from `FAULTS`.
        folder: New folder for all files but the codes.
        codes_dir: Folder of the clips' codes, kept between trainings.
        codebooks: Number of codebooks K.
        family: Name of the family of the model.
        spread: Standard deviation of the random weights. With 0.1 the first loss is near chance.
        settings: Settings of the training. By default the training is as long as the diagnosis needs.
    """
    base = write_base(folder / "base", codebooks, family=family, spread=spread)
    shutil.copytree(CLIPS, folder / "clips")
    FAULTS[name].files(folder / "base", folder / "clips")
    steps = LEARNED.get(name, 2)
    return train(
        base,
        folder / "clips" / "manifest.jsonl",
        folder / "out",
        fault=FAULTS[name],
        codes_dir=str(codes_dir),
        **({"max_steps": steps, "log_steps": max(1, steps // 6)} | settings),
    )
