"""Command `merge FILE|DIR...`. Writes the files of a log as one JSONL stream."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.logs.reader import read_lines


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Write the lines of a log to standard output as one JSONL stream, sorted by step, rank, attempt "
        "and seq. Each line keeps the bytes of its file. Of a step that a resumed run repeated, only the events of "
        "the highest attempt are written.",
        epilog=f"example: {prog} my-run | gzip > my-run.jsonl.gz",
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help="output directory of a run, log files, - for stdin")
    made.add_argument("--all-attempts", action="store_true", help="write the events of every attempt")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write the lines of logs in order and return the exit status."""
    given = parser(prog).parse_args(arguments)
    problems = ProblemPrinter()
    lines = read_lines(*given.paths, all_attempts=given.all_attempts, on_fault=problems)
    sys.stdout.flush()
    write = sys.stdout.buffer.write
    for line in lines:
        write(line.raw if line.raw.endswith(b"\n") else line.raw + b"\n")
    problems.close()
    return 0
