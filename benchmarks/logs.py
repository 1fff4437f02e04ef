"""What reading, checking and comparing logs costs, beside tools that only parse them.

    python -m benchmarks.logs [--events 10000 100000 1000000] [--rounds 3] [--json FILE]

Each command is a process of its own on one core, its output thrown away. The commands take turns, and medians over the
rounds are shown, with the ratio to `jq -c .` in the same rounds and the peak memory as the system counts it: the same
for logs of any length.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.synthetic_log import write_log

PEER = "jq -c ."

_JSON = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
_ORJSON = "import orjson, sys\nfor line in open(sys.argv[1], 'rb'): orjson.loads(line)"
_READ = "import sys\nfrom higgs_audio_trainer.logs.reader import read\nfor event in read(sys.argv[1]): pass"
_DUCKDB = (
    "SET threads = 1; SELECT event, count(*), avg(loss), max(len(first.labels)) "
    "FROM read_ndjson('{log}') GROUP BY event"
)


class Command(NamedTuple):
    """What is measured: a command line and how many logs it reads."""

    line: Sequence[str]
    logs: int = 1


class Cost(NamedTuple):
    """What one process took."""

    seconds: float
    peak_mib: float


def commands(expected: Path, got: Path) -> Mapping[str, Command]:
    """Name what is measured: tools that parse JSON, then ours."""
    python, ours = [sys.executable, "-c"], [sys.executable, "-m", "higgs_audio_trainer"]
    return {
        PEER: Command(["jq", "-c", ".", str(expected)]),
        "json.loads": Command([*python, _JSON, str(expected)]),
        "orjson.loads": Command([*python, _ORJSON, str(expected)]),
        "DuckDB, one thread": Command(["duckdb", "-c", _DUCKDB.format(log=expected)]),
        "read": Command([*python, _READ, str(expected)]),
        "merge": Command([*ours, "merge", str(expected)]),
        "show --raw --event train_step": Command([*ours, "show", "--raw", "--event", "train_step", str(expected)]),
        "show --summary": Command([*ours, "show", "--summary", str(expected)]),
        "validate": Command([*ours, "validate", str(expected)]),
        "diff": Command([*ours, "diff", str(expected), str(got)], logs=2),
    }


def run(line: Sequence[str]) -> Cost:
    """Run a command on one core and wait for it.

    Raises:
        RuntimeError: it failed.
    """
    began = perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, preexec_fn=_pin)  # noqa: PLW1509 - no threads here
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(line)} ended with {process.returncode}")
    return Cost(seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20))


def _pin() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measure(folder: Path, num_events: int, rounds: int) -> list[dict[str, Any]]:
    """Measure every command that is there, over two logs that differ in nothing but times.

    Args:
        folder: for the logs.
        num_events: of each log.
        rounds: that count; one more goes before, to warm the caches.

    Returns:
        rows of `name`, `events`, `us_per_event`, `spread` (slowest by fastest round), `times_jq` (how many times as
        fast as jq, which parses as many logs), `peak_mib`.
    """
    pair = [write_log(folder / name, num_events, run_id=name) for name in ("expected", "got")]
    present = {name: command for name, command in commands(*pair).items() if shutil.which(command.line[0])}
    taken: dict[str, list[Cost]] = {name: [] for name in present}
    for _ in range(rounds + 1):
        for name, command in present.items():
            taken[name].append(run(command.line))
    return [
        _row(name, present[name].logs * num_events, taken[name][1:], taken.get(PEER), num_events) for name in present
    ]


def _row(
    name: str, events: int, costs: Sequence[Cost], peer: Sequence[Cost] | None, peer_events: int
) -> dict[str, Any]:
    seconds = [cost.seconds for cost in costs]
    us_per_event = 1e6 * median(seconds) / events
    peer_us = 1e6 * median(cost.seconds for cost in peer[1:]) / peer_events if peer else None
    return {
        "name": name,
        "events": events,
        "us_per_event": round(us_per_event, 2),
        "spread": round(max(seconds) / min(seconds), 2),
        "times_jq": peer_us and round(peer_us / us_per_event, 2),
        "peak_mib": round(max(cost.peak_mib for cost in costs), 1),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as Markdown."""
    names = list(rows[0])
    cells = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", metavar="N", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", metavar="N", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    given = parser.parse_args()
    rows = []
    for num_events in given.events:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), num_events, given.rounds)
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
