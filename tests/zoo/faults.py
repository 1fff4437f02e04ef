"""Trainings with planted faults, and the expected findings."""

from __future__ import annotations

import shutil
from pathlib import Path

from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.demo.run import CLIPS
from sinks import MemorySink
from tests.zoo.runs import train, write_base

#: Correct additional findings at warning or above: labels without a stop token.
ALSO = {"shifted_minus_1": {"no_stop_target"}}
#: Faults that show only after some learning, with the latest step. All other faults are found at step 1.
LEARNED = {"codebook_shuffled": 60, "stop_unlearned": 60, "lr_x1000": 6}
#: Expected severity of a fault's finding. All other findings are errors.
MILDER = {
    **dict.fromkeys(("duplicate_samples", "constant_sample", "dead_codebook", "masked_out"), "warning"),
    "stop_never_predicted": "note",  # a warning needs more steps than a test may take
}
_CODEBOOKS = 4


def plant(name: str, folder: Path, codes_dir: Path, **settings: int) -> MemorySink:
    """Train on the bundled clips with a planted fault and return the events.

    Args:
        name: Name of the fault, from `FAULTS`.
        folder: New folder for all files but the codes.
        codes_dir: Folder of the clips' codes, kept between trainings.
        settings: Settings of the training. By default the training is as long as the diagnosis needs.
    """
    base = write_base(folder / "base", _CODEBOOKS)
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
