"""The zoo as a table: each fault of the demo, planted in a training as small as the tests', and what found it when.

python -m tests.zoo.table [--steps 60] [--log_steps 5]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.demo.run import CLIPS
from tests.zoo.runs import Base, found, train, write_base


def first_steps(name: str, *, steps: int, log_steps: int) -> Mapping[str, tuple[int, str]]:
    """Plant a fault; return where each code was said first, and how severe it was."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base: Base = write_base(folder / "base", 4)
        shutil.copytree(CLIPS, folder / "clips")
        fault = FAULTS[name]
        fault.files(base.model.parent, folder / "clips")
        manifest = folder / "clips" / "manifest.jsonl"
        memory = train(base, manifest, folder / "out", fault=fault, max_steps=steps, log_steps=log_steps)
    said: dict[str, tuple[int, str]] = {}
    for event in found(memory):
        said.setdefault(event["code"], (event["step"], event["severity"]))
    return said


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--log_steps", type=int, default=5)
    given = parser.parse_args()
    print("| fault | found by | at step | severity | said besides |\n|---|---|---|---|---|")
    for name, fault in FAULTS.items():
        said = dict(first_steps(name, steps=given.steps, log_steps=given.log_steps))
        step, severity = said.pop(fault.found_by, ("never", ""))
        besides = ", ".join(f"{code} ({at})" for code, (at, _) in said.items())
        print(f"| {name} | {fault.found_by} | {step} | {severity} | {besides} |", flush=True)


if __name__ == "__main__":
    main()
