"""Command `diff A B`. Compares the logs of two runs, or writes a golden."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from higgs_audio_trainer.cli.argument_parser import ArgumentParser, parse_runs
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.diff.comparison import Comparison
from higgs_audio_trainer.logs.diff.reports import FORMATS, WIDTH
from higgs_audio_trainer.phases import phase
from sinks.terminal.escape import encodable_text, known_encoding, printable
from sinks.terminal.words import count_of

_SUMMARY = "GITHUB_STEP_SUMMARY"  # names the file of a job's summary in GitHub Actions


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage="%(prog)s A B [flags]",
        description="Compare two logs event by event, joined by step, sample and codebook.",
        epilog="exit: 0 same, 1 differs, 2 could not compare\nexample: %(prog)s golden.jsonl RUN --ignore versions",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number = "[FIELD=]X"
    made.add_argument("expected", metavar="A", help="expected log: a run, a log file or a golden")
    made.add_argument("got", metavar="B", help="log to compare with A; - is standard input")
    made.add_argument("--rtol", metavar=number, action="append", default=[], help="relative tolerance of floats")
    made.add_argument("--atol", metavar=number, action="append", default=[], help="absolute tolerance of floats")
    made.add_argument("--exact", action="store_true", help="compare floats bit for bit")
    made.add_argument("--ignore", metavar="NAMES", action="append", default=[], help="ignore these fields or events")
    made.add_argument("--only", metavar="NAMES", action="append", default=[], help="compare only these")
    made.add_argument(
        "--run",
        metavar="ID",
        action="append",
        default=[],
        help="run of a log with several runs (the latest); given twice, for A and for B; a prefix is enough",
    )
    made.add_argument("--format", choices=FORMATS, help="format of the report (text)")
    made.add_argument("--bless", action="store_true", help="write B's events to golden A instead of comparing")
    add_no_limits(made, is_listed=False)  # the help fits a screen, and messages name the flag
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Compare two logs, or write a golden.

    Returns:
        0 if the logs are equal or the golden is written, 1 if the logs differ.

    Raises:
        UserError: The logs cannot be compared.
    """
    given = parser(prog).parse_args(arguments)
    rtol, atol = _tolerances("--rtol", given.rtol), _tolerances("--atol", given.atol)
    if given.bless:
        return _bless(given)
    from higgs_audio_trainer.logs.diff.compare import DiffOptions, diff

    ignore, only = _names(given.ignore), _names(given.only)
    options = DiffOptions(rtol=rtol, atol=atol, exact=given.exact, ignore=ignore, only=only)
    if given.expected != "-" and not Path(given.expected).exists():
        raise UserError(f"{given.expected}: expected a log or a golden, got no such file. --bless writes B to the file")
    problems = ProblemPrinter()
    run = parse_runs(given.run)
    try:
        with phase("comparing the logs"):
            comparison = diff(
                given.expected, given.got, options=options, run=run, on_problem=problems, on_notice=problems.say
            )
    finally:
        problems.close()
    return _report(comparison, given.format or FORMATS[0])


def _tolerances(flag: str, texts: Sequence[str]) -> dict[str, float]:
    """Return tolerances by field. The empty name holds the tolerance of all other fields.

    Example:
        >>> _tolerances("--rtol", ["1e-3", "loss=0.01"])
        {'': 0.001, 'loss': 0.01}
    """
    tolerances = {}
    for text in texts:
        field, _, number = text.rpartition("=")
        try:
            tolerances[field.strip()] = float(number)
        except ValueError:
            raise UserError(f"{flag}: expected a number or FIELD=NUMBER, got {text!r}") from None
    return tolerances


def _names(lists: Sequence[str]) -> frozenset[str]:
    """Return the names in comma-separated lists.

    Example:
        >>> sorted(_names(["loss, seed", "config.lr"]))
        ['config.lr', 'loss', 'seed']
    """
    names = (name.strip() for names in lists for name in names.split(","))
    return frozenset(name for name in names if name)


def _bless(given: argparse.Namespace) -> int:
    """Write golden A from log B.

    Raises:
        UserError: A flag of the comparison is given, B is not complete, or A cannot be written.
    """
    if given.ignore or given.only:
        raise UserError("--bless: expected no --ignore or --only, because a golden has all events. Remove the flag")
    others = {"--rtol": given.rtol, "--atol": given.atol, "--exact": given.exact, "--format": given.format}
    for flag, value in others.items():
        if value:
            raise UserError(f"--bless: expected no {flag}, because nothing is compared. Remove the flag")
    if len(given.run) > 1:
        raise UserError("--bless: expected one --run, the run of B to write, got two. Remove one of them")
    from higgs_audio_trainer.logs.diff.golden import write_golden

    run = given.run[0] if given.run else None
    with phase("writing the golden"):
        count = write_golden(given.got, given.expected, finished=True, run=run, on_notice=ProblemPrinter().say)
    _print(f"{printable(given.expected)}: golden of {count_of(count, 'event')} written\n")
    return 0


def _report(comparison: Comparison, form: str) -> int:
    from higgs_audio_trainer.logs.diff.reports import render

    _print(render(comparison, form, width=_terminal_width()))
    summary = os.environ.get(_SUMMARY)
    if form == "github" and summary:
        _append(Path(summary), render(comparison, "markdown"))
    return 0 if comparison.same else 1


def _print(text: str) -> None:
    # After a closed pipe, `main` gets the error again at its last flush, and the exit status reports the comparison.
    with suppress(BrokenPipeError):
        sys.stdout.write(encodable_text(text, known_encoding(sys.stdout.encoding)))


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        from sinks.terminal.screen import say_on_stderr

        say_on_stderr(printable(f"{_SUMMARY}={path}: {error.strerror}. The file lacks the report"))


def _terminal_width() -> int:
    if not sys.stdout.isatty():
        return WIDTH
    from shutil import get_terminal_size

    return get_terminal_size((WIDTH, 24)).columns
