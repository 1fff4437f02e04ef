"""What reading, checking and comparing logs costs, beside tools that only parse them.

    python -m benchmarks.logs [--quick] [--json FILE]
    python -m benchmarks.logs --events 100000 10000000 [--rounds 3] [--only validate diff] [--json FILE]

Each command is a process of its own on one core, its output thrown away. They take turns, and medians over the rounds
are shown, with how many times as fast as `jq -c .` in the same rounds each of them is, and the peak memory as the
system counts it. Without `--events` the commands that have a target read a million events, once: that takes each of
them long enough. Two rounds of a tenth as many events show what all others take, and memory is that of a million events
beside that of a hundredth of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.rows import Row, write_json
from benchmarks.rows import table as table_of_rows
from benchmarks.synthetic_log import write_log

PEER = "jq -c ."
PARSERS = (PEER, "json.loads", "DuckDB, one thread")
AIMED = ("read", "validate", "diff")  # faster than jq, in constant memory
SIZES = (10_000, 100_000, 1_000_000)
FEW = (50, 100, 1_000)
UNIT = "µs an event"
_MOST_MEMORY = 1.1

_JSON = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
_ORJSON = "import orjson, sys\nfor line in open(sys.argv[1], 'rb'): orjson.loads(line)"
_READ = "import sys\nfrom higgs_audio_trainer.logs.reader import read\nfor event in read(sys.argv[1]): pass"
_DUCKDB = (
    "SET threads = 1; SELECT event, count(*), avg(loss), max(len(first.labels)) "
    "FROM read_ndjson('{log}') GROUP BY event"
)


class Command(NamedTuple):
    """What is measured: a command line, how many logs it reads, and how it ends."""

    line: Sequence[str]
    logs: int = 1
    status: int = 0


class Cost(NamedTuple):
    """What one process took."""

    seconds: float
    peak_mib: float


def commands(expected: Path, got: Path, other: Path) -> Mapping[str, Command]:
    """Name what is measured: tools that parse JSON, then ours.

    Args:
        expected: a log.
        got: one that differs in nothing but the run's id.
        other: one that differs from it in every event.
    """
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
        "diff of runs that differ": Command([*ours, "diff", str(expected), str(other)], logs=2, status=1),
    }


def run(command: Command) -> Cost:
    """Run a command on one core and wait for it.

    Raises:
        RuntimeError: it failed.
    """
    began = perf_counter()
    process = subprocess.Popen(command.line, stdout=subprocess.DEVNULL, preexec_fn=_pin)  # noqa: PLW1509 - no threads here
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != command.status:
        raise RuntimeError(f"{' '.join(command.line)} ended with {process.returncode}")
    return Cost(seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20))


def _pin() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measure(folder: Path, num_events: int, rounds: int, only: Collection[str] = ()) -> list[dict[str, Any]]:
    """Measure every command that is there.

    Args:
        folder: for the logs.
        num_events: of each log.
        rounds: that count. If there are several, one more goes before, to warm the caches; a log that was just written
            is warm.
        only: names of what is measured; empty for all.

    Returns:
        rows of `name`, `events`, `us_per_event`, `spread` (slowest by fastest round), `times_jq` (how many times as
        fast as jq, which parses as many logs), `peak_mib`.
    """
    # Another process writes them: what this one ever held counts as the peak of each that it starts.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        expected = pool.submit(write_log, folder / "expected", num_events).result()
        got = pool.submit(write_log, folder / "got", num_events, run_id="another").result()
        other = pool.submit(write_log, folder / "other", num_events, seed=1).result()
    present = {
        name: command
        for name, command in commands(expected, got, other).items()
        if (name in only or not only) and shutil.which(command.line[0])
    }
    taken: dict[str, list[Cost]] = {name: [] for name in present}
    warm_up = int(rounds > 1)
    for _ in range(warm_up + rounds):
        for name, command in present.items():
            taken[name].append(run(command))
    counted = {name: costs[warm_up:] for name, costs in taken.items()}
    return [
        _row(name, present[name].logs * num_events, counted[name], counted.get(PEER), num_events) for name in present
    ]


def _row(
    name: str, events: int, costs: Sequence[Cost], peer: Sequence[Cost] | None, peer_events: int
) -> dict[str, Any]:
    seconds = [cost.seconds for cost in costs]
    us_per_event = 1e6 * median(seconds) / events
    peer_us = 1e6 * median(cost.seconds for cost in peer) / peer_events if peer else None
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


def rows(quick: bool = False) -> list[Row]:
    """Measure what has a target over many events, the rest over fewer, and memory over both and fewer yet."""
    few, some, many = FEW if quick else SIZES
    over_few = _measured(few, 1, AIMED)
    over_some = _measured(some, 1 if quick else 2)
    over_many = _measured(many, 1, (*PARSERS, *AIMED))
    return [
        *(_timed(over_many[name], name, aimed=name in AIMED) for name in over_many),
        *(_timed(over_some[name], f"{name}, {some:,} events") for name in over_some if name not in over_many),
        *(_memory(name, over_few[name], over_many[name], f"{few:,} events") for name in AIMED),
    ]


def _measured(num_events: int, rounds: int, only: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return {row["name"]: row for row in measure(Path(folder), num_events, rounds, only)}


def _timed(row: Mapping[str, Any], name: str, *, aimed: bool = False) -> Row:
    times = row["times_jq"]
    if times is None or row["name"] == PEER:
        return Row(name, row["us_per_event"], UNIT)
    target = ("> 1", times > 1) if aimed else ("", None)
    return Row(name, row["us_per_event"], UNIT, PEER, times, *target)


def _memory(name: str, few: Mapping[str, Any], many: Mapping[str, Any], against: str) -> Row:
    times = many["peak_mib"] / few["peak_mib"]
    target, holds = f"<= {_MOST_MEMORY}", times <= _MOST_MEMORY
    return Row(f"{name}: peak memory", many["peak_mib"], "MiB", against, times, target, holds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small logs, to see that it works: the figures say little")
    parser.add_argument("--events", metavar="N", type=int, nargs="+", help="of the logs, instead of the usual")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="with --events")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=(), help="commands to measure, with --events")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    given = parser.parse_args()
    if given.events is None:
        usual = rows(given.quick)
        print(table_of_rows(usual))
        if given.json:
            write_json(usual, given.json)
        return
    found = [row for events in given.events for row in _measured(events, given.rounds, given.only).values()]
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
