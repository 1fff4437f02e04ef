"""Cost of reading, validating and comparing logs, beside plain JSON parsers.

    python -m benchmarks.logs [--quick] [--json FILE]
    python -m benchmarks.logs --events 100000 10000000 [--rounds 3] [--only validate diff] [--json FILE]
    python -m benchmarks.logs --ranks 1 64 --events 100000 [--json FILE]

Each command is a process of its own on one core, with discarded output. The commands take turns. The table has the
medians over the rounds, the speed relative to `jq -c .` in the same rounds, and the peak memory as counted by the
system. Without `--events` the commands with a target read a million events once, which takes each long enough. All
other commands read a tenth of the events twice. Peak memory at a million events is compared with peak memory at a
hundredth of the events. With `--ranks`, the events are those of all ranks together, a file a rank, and the table has
the most open files too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, NamedTuple

from benchmarks.rows import ResultRow, argument_parser, markdown, report
from benchmarks.synthetic_log import write_log

PEER = "jq -c ."
PARSERS = (PEER, "json.loads", "DuckDB, one thread")
AIMED = ("read", "validate", "diff")  # must be faster than jq, in constant memory
SIZES = (10_000, 100_000, 1_000_000)
FEW = (50, 100, 1_000)
UNIT = "µs per event"
_MOST_MEMORY = 1.1
RANKS = (1, 64)
_HEAD_MIB = 1  # of a rank: buffer and event of its file, and a Parquet writer for each kind of event
_LOOK_S = 0.01

_JSON = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
_ORJSON = "import orjson, sys\nfor line in open(sys.argv[1], 'rb'): orjson.loads(line)"
_READ = "import sys\nfrom higgs_audio_trainer.logs.reader import read\nfor event in read(sys.argv[1]): pass"
_DUCKDB = (
    "SET threads = 1; SELECT event, count(*), avg(loss), max(len(first.labels)) "
    "FROM read_ndjson('{log}') GROUP BY event"
)


class LogCommand(NamedTuple):
    """Measured command.

    Attributes:
        line: Command line.
        logs: Number of logs read by the command.
        status: Expected exit code.
    """

    line: Sequence[str]
    logs: int = 1
    status: int = 0


class ProcessCost(NamedTuple):
    """Costs of a process.

    Attributes:
        seconds: Wall time.
        peak_mib: Peak memory, in MiB.
        open_files: Most open files that were seen; 0 where nobody looked.
    """

    seconds: float
    peak_mib: float
    open_files: int = 0


def commands(expected: Path, got: Path, other: Path) -> Mapping[str, LogCommand]:
    """Return the measured commands by name, first parsers of JSON, then ours.

    Args:
        expected: Path of a log.
        got: Path of a log with another run id.
        other: Path of a log with differences in every event.
    """
    python, ours = [sys.executable, "-c"], [sys.executable, "-m", "higgs_audio_trainer"]
    return {
        PEER: LogCommand(["jq", "-c", ".", str(expected)]),
        "json.loads": LogCommand([*python, _JSON, str(expected)]),
        "orjson.loads": LogCommand([*python, _ORJSON, str(expected)]),
        "DuckDB, one thread": LogCommand(["duckdb", "-c", _DUCKDB.format(log=expected)]),
        "read": LogCommand([*python, _READ, str(expected)]),
        "merge": LogCommand([*ours, "merge", str(expected)]),
        "show --raw --event train_step": LogCommand([*ours, "show", "--raw", "--event", "train_step", str(expected)]),
        "show --summary": LogCommand([*ours, "show", "--summary", str(expected)]),
        "validate": LogCommand([*ours, "validate", str(expected)]),
        "diff": LogCommand([*ours, "diff", str(expected), str(got)], logs=2),
        "diff of runs that differ": LogCommand([*ours, "diff", str(expected), str(other)], logs=2, status=1),
    }


def run(command: LogCommand, *, counts_files: bool = False) -> ProcessCost:
    """Run a command on a single core to the end.

    Args:
        command: Command to run.
        counts_files: Look at the open files every 10 ms.

    Raises:
        RuntimeError: The exit code is not the expected exit code.

    Example:
        >>> cost = run(LogCommand(["true"]))
        >>> cost.seconds > 0, cost.peak_mib > 0
        (True, True)
    """
    began = perf_counter()
    process = subprocess.Popen(command.line, stdout=subprocess.DEVNULL, preexec_fn=_pin)  # noqa: PLW1509 - no threads here
    most, files = 0, Path(f"/proc/{process.pid}/fd")
    while counts_files and not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        with suppress(OSError):  # the process has ended
            most = max(most, len([*files.iterdir()]))
        sleep(_LOOK_S)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != command.status:
        raise RuntimeError(f"expected exit code {command.status} of {' '.join(command.line)}, got {process.returncode}")
    return ProcessCost(seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20), most)


def _pin() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measure(folder: Path, num_events: int, rounds: int, only: Collection[str] = ()) -> list[dict[str, Any]]:
    """Measure every installed command.

    Args:
        folder: Folder for the logs.
        num_events: Events of each log.
        rounds: Number of counted rounds. Several rounds have a warm-up round for the caches. A single round reads logs
            that were just written and are cached.
        only: Names of the measured commands. Empty for all commands.

    Returns:
        Rows of `name`, `events`, `us_per_event`, `spread` (slowest by fastest round), `times_jq` (speed relative to jq
        per event) and `peak_mib`.
    """
    # Another process writes the logs, because a child process inherits the peak memory of this process.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        expected = pool.submit(write_log, folder / "expected", num_events).result()
        got = pool.submit(write_log, folder / "got", num_events, run_id="another").result()
        other = pool.submit(write_log, folder / "other", num_events, seed=1).result()
    present = {
        name: command
        for name, command in commands(expected, got, other).items()
        if (name in only or not only) and shutil.which(command.line[0])
    }
    taken: dict[str, list[ProcessCost]] = {name: [] for name in present}
    warm_up = int(rounds > 1)
    for _ in range(warm_up + rounds):
        for name, command in present.items():
            taken[name].append(run(command))
    counted = {name: costs[warm_up:] for name, costs in taken.items()}
    return [
        _row(name, present[name].logs * num_events, counted[name], counted.get(PEER), num_events) for name in present
    ]


def _row(
    name: str, events: int, costs: Sequence[ProcessCost], peer: Sequence[ProcessCost] | None, peer_events: int
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


def measure_ranks(folder: Path, ranks: int, num_events: int) -> list[dict[str, Any]]:
    """Measure the commands that read all ranks, once.

    Args:
        folder: Folder for the logs.
        ranks: Number of ranks, each with a file.
        num_events: Events of all ranks together.

    Returns:
        Rows of `name`, `ranks`, `events`, `us_per_event`, `peak_mib` and `open_files`.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for rank in range(ranks):
            made = partial(write_log, seed=rank, rank=rank, world_size=ranks)
            pool.submit(made, folder / "ranks", num_events // ranks).result()
    ours, out = [sys.executable, "-m", "higgs_audio_trainer"], folder / "out"
    lines = {
        "merge": ["merge"],
        "show --summary": ["show", "--summary"],
        "validate": ["validate"],
        "report": ["report", "-o", f"{out}.html"],
        "export --to parquet": ["export", "--to", "parquet", "-o", str(out)],
    }
    found = []
    for name, line in lines.items():
        cost = run(LogCommand([*ours, *line, str(folder / "ranks")]), counts_files=True)
        figures = {"us_per_event": round(1e6 * cost.seconds / num_events, 2), "peak_mib": round(cost.peak_mib, 1)}
        found.append({"name": name, "ranks": ranks, "events": num_events, **figures, "open_files": cost.open_files})
    return found


def _ranks(ranks: int, num_events: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return measure_ranks(Path(folder), ranks, num_events)


def _of_ranks(num_events: int) -> Iterator[ResultRow]:
    """Yield the cost of many files against one file with as many events."""
    one, many = (_ranks(ranks, num_events) for ranks in RANKS)
    most = (RANKS[1] - RANKS[0]) * _HEAD_MIB
    for before, after in zip(one, many, strict=True):
        name, against = f"{after['name']}, {RANKS[1]} ranks", f"{RANKS[0]} rank"
        times = after["us_per_event"] / before["us_per_event"]
        yield ResultRow(name, after["us_per_event"], UNIT, against, times)
        more = after["peak_mib"] - before["peak_mib"]
        yield ResultRow(f"{name}, more memory", more, "MiB", against, None, f"<= {_HEAD_MIB} MiB a rank", more <= most)
        yield ResultRow(f"{name}, open files", after["open_files"], "files")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of `measure` as a Markdown table.

    Example:
        >>> print(table([{"name": "read", "us_per_event": 11.28}]))
        | name | us_per_event |
        |---|---|
        | read | 11.28 |
    """
    return markdown(list(rows[0]), (row.values() for row in rows))


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure commands with a target over many events, all others over fewer, and peak memory over few and many."""
    few, some, many = FEW if quick else SIZES
    over_few = _measured(few, 1, AIMED)
    over_some = _measured(some, 1 if quick else 2)
    over_many = _measured(many, 1, (*PARSERS, *AIMED))
    return [
        *(_timed(over_many[name], name, aimed=name in AIMED) for name in over_many),
        *(_timed(over_some[name], f"{name}, {some:,} events") for name in over_some if name not in over_many),
        *(_memory(name, over_few[name], over_many[name], f"{few:,} events") for name in AIMED),
        *_of_ranks(some),
    ]


def _measured(num_events: int, rounds: int, only: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return {row["name"]: row for row in measure(Path(folder), num_events, rounds, only)}


def _timed(row: Mapping[str, Any], name: str, *, aimed: bool = False) -> ResultRow:
    times = row["times_jq"]
    if times is None or row["name"] == PEER:
        return ResultRow(name, row["us_per_event"], UNIT)
    target = ("> 1", times > 1) if aimed else ("", None)
    return ResultRow(name, row["us_per_event"], UNIT, PEER, times, *target)


def _memory(name: str, few: Mapping[str, Any], many: Mapping[str, Any], against: str) -> ResultRow:
    times = many["peak_mib"] / few["peak_mib"]
    target, holds = f"<= {_MOST_MEMORY}", times <= _MOST_MEMORY
    return ResultRow(f"{name}, peak memory", many["peak_mib"], "MiB", against, times, target, holds)


def main() -> None:
    """Run the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--events", metavar="N", type=int, nargs="+", help="events of the logs, instead of the default")
    parser.add_argument("--ranks", metavar="N", type=int, nargs="+", help="numbers of ranks, with one of --events")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="counted rounds, with --events")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=(), help="measured commands, with --events")
    given = parser.parse_args()
    if given.events is None:
        report(rows(given.quick), given.json)
        return
    if given.ranks:
        found = [row for ranks in given.ranks for row in _ranks(ranks, given.events[0])]
    else:
        found = [row for events in given.events for row in _measured(events, given.rounds, given.only).values()]
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
