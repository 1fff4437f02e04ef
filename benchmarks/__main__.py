"""Costs of every part of the project, each as a ratio to a peer or to a floor measured in the same run.

    python -m benchmarks [--only NAME ...] [--quick] [--json FILE]

The command prints a Markdown table and takes less than 15 minutes on two cores. Each benchmark runs in a process of its
own and starts with clean memory and caches. `benchmarks/README.md` has the last table, the method and the conclusions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import ResultRow, argument_parser, report

NAMES = (
    "training_step",
    "logged_step",
    "probes",
    "extraction",
    "one_event",
    "latency",
    "trackers",
    "logs",
    "start_up",
    "data",
    "scale",
    "batches",
    "growth",
)


def measure(name: str, *, quick: bool) -> list[ResultRow] | None:
    """Run a benchmark in a process.

    Args:
        name: Name of the benchmark, from `NAMES`.
        quick: Use small sizes.

    Returns:
        Rows of the benchmark, or None if the process failed. The process prints its error to stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file), *["--quick"] * quick]
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if done.returncode:
            return None
        return [ResultRow(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def main() -> int:
    """Run the requested benchmarks and report their rows.

    Returns:
        Exit code 1 if a benchmark failed to run, else 0. Missed targets do not count as failures.
    """
    parser = argument_parser(__doc__)
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=NAMES, default=NAMES, help=", ".join(NAMES))
    given = parser.parse_args()
    measured = {name: measure(name, quick=given.quick) for name in given.only}
    report([row for part in measured.values() for row in part or ()], given.json)
    failed = [name for name, part in measured.items() if part is None]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
