"""Device check: run everything that needs a CUDA device, in at most 8 minutes.

    python -m benchmarks.device [--only PART ...] [--quick] [--json FILE]

With --only, the command runs some of the parts and takes the time of these parts: {parts}. The last, every method of
training at full size, runs with --only alone.

The command prints a Markdown table. Each part runs in a process of its own and has its own time. A part may also use
the time that earlier parts left over. A part that fails or whose time is used up has a row that says so, keeps the rows
measured so far, and the command goes on. The exit code is 1 if a part failed, else 0. Without a CUDA device the command
says so in a line and exits with 0. No part needs a network.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.device.part import PARTS
from benchmarks.rows import ResultRow, argument_parser, table

_LEAST_S = 10.0  # less time is not enough to start a part
_GIB = 2**30

Rows = list[ResultRow]


def run_part(command: Sequence[str], seconds: float) -> tuple[Rows, str]:
    """Run a part in a process, and end the process and its children when the time is used up.

    Args:
        command: Command line, to which the file for the rows is added.
        seconds: Time of the part.

    Returns:
        Rows of the part, also those before an error, and the first line of the error or "".
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.touch()
        process = subprocess.Popen([*command, str(file)], stdout=sys.stderr, start_new_session=True)
        try:
            status = process.wait(timeout=seconds)
            error = f"the process ended with status {status}" if status else ""
        except subprocess.TimeoutExpired:
            error = f"the time is used up after {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lines = [json.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    rows = [ResultRow(**line) for line in lines if "error" not in line]
    return rows, next((line["error"] for line in lines if "error" in line), error)


def check(
    commands: Sequence[tuple[str, float, Sequence[str]]], clock: Callable[[], float] = time.monotonic
) -> tuple[list[tuple[str, ResultRow]], bool]:
    """Run all parts, each until the end of its time.

    Args:
        commands: Name, seconds and command line of each part.
        clock: Seconds of a monotonic clock.

    Returns:
        Name of the part and row, for all rows, and whether a part failed.
    """
    made: list[tuple[str, ResultRow]] = []
    failed = False
    deadline = clock()
    for name, seconds, command in commands:
        deadline += seconds
        left = deadline - clock()
        if left < _LEAST_S:
            made.append((name, ResultRow(name, None, "skipped", against="the time is used up")))
            continue
        began = clock()
        rows, error = run_part([*command, "--until", f"{deadline:.0f}"], left)
        made += [(name, row) for row in rows]
        if error:
            failed = True
            made.append((name, ResultRow(name, None, "failed", against=error)))
        print(f"{name}: {clock() - began:.0f} s {error}", file=sys.stderr, flush=True)
    return made, failed


def machine() -> dict[str, Any]:
    """Return the name and memory of the card, and the versions that the figures depend on."""
    card = torch.cuda.get_device_properties(0)
    return {
        "card": card.name,
        "memory_gib": round(card.total_memory / _GIB, 1),
        "compute_capability": f"{card.major}.{card.minor}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the device check.

    Returns:
        1 if a part failed, else 0.
    """
    times = ", ".join(f"{part.name} {part.seconds:.0f} s" for part in PARTS)
    parser = argument_parser(str(__doc__).format(parts=times))
    names = [part.name for part in PARTS]
    usual = [part.name for part in PARTS if part.is_usual]
    parser.add_argument("--only", nargs="+", metavar="PART", choices=names, default=usual, help="parts to run")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.device: no CUDA device, nothing measured")
        _write(given.json, {"device": None, "rows": []})
        return 0
    device = machine()
    command = [sys.executable, "-m", "benchmarks.device.part", *["--quick"] * given.quick]
    began = time.monotonic()
    chosen = [part for part in PARTS if part.name in given.only]
    rows, failed = check([(part.name, part.seconds, [*command, part.name]) for part in chosen])
    device["seconds"] = round(time.monotonic() - began)
    print(", ".join(f"{name} {value}" for name, value in device.items()) + "\n")
    print(table(row for _, row in rows))
    _write(given.json, {"device": device, "rows": [{"part": name, **asdict(row)} for name, row in rows]})
    return int(failed)


def _write(file: Path | None, result: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
