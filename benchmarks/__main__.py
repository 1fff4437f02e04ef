"""What every part costs, as a ratio to a peer or a floor that is measured in the same run.

    python -m benchmarks [--only NAME ...] [--quick] [--json FILE]

Prints a Markdown table; takes less than 15 minutes on two cores. Each benchmark is a process of its own, so that none
finds what another left. `benchmarks/README.md` has the last table, the method, and what was learned.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Row, table, write_json

NAMES = (
    "training_step",
    "due_step",
    "extraction",
    "one_event",
    "latency",
    "trackers",
    "logs",
    "start_up",
    "data",
    "growth",
    "full_size_step",
)


def measure(name: str, *, quick: bool) -> list[Row] | None:
    """Run one benchmark; return its rows, or None where it failed: it has said why."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file), *["--quick"] * quick]
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if done.returncode:
            return None
        return [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def main() -> int:
    """Measure, print and write; 1 where a benchmark failed, whatever its figures are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=NAMES, default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="small sizes, whose figures say little")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    given = parser.parse_args()
    measured = {name: measure(name, quick=given.quick) for name in given.only}
    rows = [row for part in measured.values() for row in part or ()]
    print(table(rows))
    if given.json:
        write_json(rows, given.json)
    failed = [name for name, part in measured.items() if part is None]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
