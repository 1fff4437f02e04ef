"""Table of the zoo: the demo's faults, planted in small trainings, with the diagnoses and their first steps.

python -m tests.zoo.table [--steps 60] [--log_steps 5] [--healthy 54]
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from higgs_audio_trainer.demo.faults import FAULTS
from tests.zoo import healthy
from tests.zoo.faults import plant
from tests.zoo.runs import found


def first_steps(name: str, folder: Path, *, steps: int, log_steps: int) -> Mapping[str, tuple[int, str]]:
    """Train with a planted fault and return the first step and severity by code."""
    found_at: dict[str, tuple[int, str]] = {}
    for event in found(plant(name, folder / name, folder / "codes", max_steps=steps, log_steps=log_steps)):
        found_at.setdefault(event["code"], (event["step"], event["severity"]))
    return found_at


def main() -> None:
    """Print the table and the findings of healthy trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--log_steps", type=int, default=5)
    parser.add_argument("--healthy", type=int, default=54, metavar="N", help="healthy trainings [%(default)s]")
    given = parser.parse_args()
    torch.set_num_threads(1)  # more threads would only wait for each other
    print("| fault | found by | at step | severity | also found |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name, fault in FAULTS.items():
            found_at = dict(first_steps(name, Path(temporary), steps=given.steps, log_steps=given.log_steps))
            step, severity = found_at.pop(fault.found_by, ("never", ""))
            besides = ", ".join(f"{code} ({at})" for code, (at, _) in found_at.items())
            print(f"| {name} | {fault.found_by} | {step} | {severity} | {besides} |", flush=True)
    if given.healthy:
        print(f"\n{_false_alarms(given.healthy)}")


def _false_alarms(runs: int) -> str:
    outcomes = list(healthy.train_all(runs, foreign=runs))
    alarms = Counter(code for outcome in outcomes for code in {code for code, *_ in outcome["alarms"]})
    steps = sum(outcome["logged_steps"] for outcome in outcomes)
    listed = ", ".join(f"{code} in {number}" for code, number in alarms.items()) or "none"
    return f"False alarms in {len(outcomes)} healthy trainings with {steps:,} logged steps: {listed}."


if __name__ == "__main__":
    main()
