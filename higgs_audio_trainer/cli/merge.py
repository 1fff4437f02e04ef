"""`merge FILE|DIR...`: the files of a log as one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from higgs_audio_trainer.cli.faults import Faults
from higgs_audio_trainer.cli.parser import ArgumentParser
from higgs_audio_trainer.logs.reader import read_lines


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Write the lines of a log to standard output as one JSONL: ranks, attempts and segments in the "
        "order of step, rank, attempt and seq, each line byte by byte as it is in its file. A step that was made again "
        "after a resume is written once, as the highest attempt made it.",
        epilog=f"example: {prog} my-run | gzip > my-run.jsonl.gz",
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help="a run's output directory, log files, - for stdin")
    made.add_argument("--all-attempts", action="store_true", help="write the events of every attempt")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write the lines of logs in order."""
    given = parser(prog).parse_args(arguments)
    faults = Faults()
    lines = read_lines(*given.paths, all_attempts=given.all_attempts, on_problem=faults)
    sys.stdout.flush()
    write = sys.stdout.buffer.write
    for line in lines:
        write(line.raw if line.raw.endswith(b"\n") else line.raw + b"\n")
    faults.close()
    return 0
