"""Command `merge FILE|DIR...`. Writes the files of a log as one JSONL stream."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.light_check import LightCheck
from higgs_audio_trainer.logs.reader import marked_lines
from higgs_audio_trainer.logs.runs import selected
from higgs_audio_trainer.phases import phase


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Write the lines of a log to standard output as one JSONL stream, sorted by step, rank, attempt "
        "and seq. Each line keeps the bytes of its file. Of a step that a resumed run repeated, only the events of "
        "the highest attempt are written. Several runs of a folder are written one after the other.",
        epilog=f"example: {prog} my-run | gzip > my-run.jsonl.gz",
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help="output directory of a run, log files, - for stdin")
    made.add_argument("--run", metavar="ID", help="of a log with several runs, this one (all); a prefix is enough")
    made.add_argument("--all-attempts", action="store_true", help="write the events of every attempt")
    add_no_limits(made)
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write the lines of logs in order and return the exit status.

    Raises:
        UserError: The logs hold no event.
    """
    given = parser(prog).parse_args(arguments)
    problems = ProblemPrinter()
    with phase("merging the log"):
        logs = selected(given.paths, given.run, problems.say, every=True)
    sys.stdout.flush()
    write = sys.stdout.buffer.write
    check = LightCheck().event_of  # copied lines need no typed events
    is_empty = True
    with nullcontext() if sys.stdout.isatty() else phase("merging the log"):  # on a terminal the lines show it
        for log in logs:
            for line, is_current in marked_lines(log, problems, event_of=check):
                is_empty = False
                if is_current or given.all_attempts:
                    write(line.raw if line.raw.endswith(b"\n") else line.raw + b"\n")
    problems.close()
    if is_empty:
        raise UserError(
            f"{', '.join(given.paths)}: expected a log, got no line that holds an event. Name a run's folder"
        )
    return 0
