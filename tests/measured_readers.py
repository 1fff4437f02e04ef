"""Nine readers of a log in this process, each with its exit status, its time and its peak of memory.

    python -m tests.measured_readers LOG HONEST_LOG FOLDER

The command prints a JSON object. What a reader prints is in the file with the reader's name in FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import higgs_audio_trainer
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.errors import UserError

#: Readers in the order of the digits of `Mutation.statuses`.
READERS = ("show", "summary", "diff", "validate", "merge", "report", "export", "diagnose", "read")


def commands(log: Path, honest_log: Path, out: Path) -> Mapping[str, Sequence[object]]:
    """Return the command of each reader but `read`."""
    return {
        "show": ["show", log],
        "summary": ["show", "--summary", log],
        "diff": ["diff", honest_log, log],
        "validate": ["validate", log],
        "merge": ["merge", log],
        "report": ["report", log, "-o", out / "report.html"],
        "export": ["export", log, "--to", "parquet", "-o", out / "parquet"],
        "diagnose": ["diagnose", log],
    }


def status_of_read(log: Path) -> int:
    """Return the status of `read` as a command: 2 for an error that a user sees as a line."""
    try:
        for _ in higgs_audio_trainer.read(log, on_problem=lambda problem: None):
            pass
    except UserError:
        return 2
    return 0


def run(reader: str, log: Path, honest_log: Path, out: Path) -> int:
    """Run a reader and return its exit status."""
    if reader == "read":
        return status_of_read(log)
    return main([str(word) for word in commands(log, honest_log, out)[reader]])


@contextmanager
def _printed_to(path: Path) -> Iterator[None]:
    """Print to a file, also from below Python."""
    kept = os.dup(1), os.dup(2)
    with path.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _forget_peak() -> None:
    """Let the peak of memory begin again, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> int:
    """Return the peak of memory. Not `ru_maxrss`, which begins with the memory of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) // 1024


def measure(log: Path, honest_log: Path, out: Path) -> dict[str, tuple[int, float, int]]:
    """Return status, seconds of CPU time and peak in MiB of each reader. Other tests share the cores."""
    found = {}
    for reader in READERS:
        _forget_peak()
        begin = time.process_time()
        with _printed_to(out / reader):
            status = run(reader, log, honest_log, out)
        found[reader] = status, time.process_time() - begin, _peak_mib()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*map(Path, sys.argv[1:]))) + "\n")
