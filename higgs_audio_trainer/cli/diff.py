"""`diff A B`: compares the logs of two runs, or blesses a golden."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from higgs_audio_trainer.cli.faults import Faults
from higgs_audio_trainer.cli.parser import ArgumentParser
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.diff.comparison import Comparison
from higgs_audio_trainer.logs.diff.reports import FORMATS, WIDTH
from sinks.terminal.escape import encodable, known_encoding, printable
from sinks.terminal.screen import say_on_stderr

_SUMMARY = "GITHUB_STEP_SUMMARY"  # where GitHub Actions takes a job's summary from
_EXIT = "exit: 0 same, 1 differs, 2 could not compare"
_EXAMPLE = "example: %(prog)s golden.jsonl RUN --ignore versions"


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage="%(prog)s A B [flags]",
        description="Compare two logs event by event, joined by step, sample and codebook.",
        epilog=f"{_EXIT}\n{_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number = "[FIELD=]X"
    made.add_argument("expected", metavar="A", help="a run, a log or a golden: what is expected")
    made.add_argument("got", metavar="B", help="what to compare with it; - is standard input")
    made.add_argument("--rtol", metavar=number, action="append", default=[], help="relative tolerance of floats")
    made.add_argument("--atol", metavar=number, action="append", default=[], help="absolute tolerance of floats")
    made.add_argument("--exact", action="store_true", help="floats must be equal bit for bit")
    made.add_argument("--ignore", metavar="NAMES", action="append", default=[], help="leave out fields or events")
    made.add_argument("--only", metavar="NAMES", action="append", default=[], help="compare these alone")
    made.add_argument("--format", choices=FORMATS, help="form of the report (text)")
    made.add_argument("--bless", action="store_true", help="write B's events to golden A instead of comparing")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Compare two logs, or write a golden.

    Returns:
        0 the same, or blessed; 1 they differ.

    Raises:
        UserError: they cannot be compared.
    """
    given = parser(prog).parse_args(arguments)
    rtol, atol = _by_field("--rtol", given.rtol), _by_field("--atol", given.atol)
    ignore, only = _names(given.ignore), _names(given.only)
    if given.bless:
        _refuse_beside_bless(given)
        return _bless(given.expected, given.got)
    from higgs_audio_trainer.logs.diff.compare import Options, compare

    options = Options(rtol=rtol, atol=atol, exact=given.exact, ignore=ignore, only=only)
    if given.expected != "-" and not Path(given.expected).exists():
        raise UserError(f"{given.expected}: expected a log or a golden, got no such file. --bless makes one of B")
    faults = Faults()
    try:
        comparison = compare(given.expected, given.got, options=options, on_problem=faults)
    finally:
        faults.close()
    return _report(comparison, given.format or FORMATS[0])


def _refuse_beside_bless(given: argparse.Namespace) -> None:
    if given.ignore or given.only:
        raise UserError("--bless: expected no --ignore or --only beside it, for a golden is whole. Leave them out")
    beside = {"--rtol": given.rtol, "--atol": given.atol, "--exact": given.exact, "--format": given.format}
    for flag, value in beside.items():
        if value:
            raise UserError(f"--bless: expected no {flag} beside it, for nothing is compared. Leave it out")


def _by_field(flag: str, given: Sequence[str]) -> dict[str, float]:
    """Read tolerances: `1e-3` is that of all fields, `loss=1e-3` that of one."""
    tolerances = {}
    for text in given:
        field, _, number = text.rpartition("=")
        try:
            tolerances[field.strip()] = float(number)
        except ValueError:
            raise UserError(f"{flag}: expected a number or FIELD=NUMBER, got {text!r}") from None
    return tolerances


def _names(lists: Sequence[str]) -> frozenset[str]:
    names = (name.strip() for names in lists for name in names.split(","))
    return frozenset(name for name in names if name)


def _bless(expected: str, got: str) -> int:
    from higgs_audio_trainer.logs.diff.golden import write_golden

    count = write_golden(got, expected, finished=True)
    _print(f"{printable(expected)}: golden of {count:,} event{'' if count == 1 else 's'} written\n")
    return 0


def _report(comparison: Comparison, form: str) -> int:
    from higgs_audio_trainer.logs.diff.reports import render

    _print(render(comparison, form, width=_width()))
    summary = os.environ.get(_SUMMARY)
    if form == "github" and summary:
        _append(Path(summary), render(comparison, "markdown"))
    return 0 if comparison.same else 1


def _print(text: str) -> None:
    # Who closed the pipe has read enough; `main` sees it at the last flush, and the exit status is the verdict's.
    with suppress(BrokenPipeError):
        sys.stdout.write(encodable(text, known_encoding(sys.stdout.encoding)))


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        say_on_stderr(printable(f"{_SUMMARY}={path}: expected a file to add the report to, got: {error.strerror}"))


def _width() -> int:
    if not sys.stdout.isatty():
        return WIDTH
    from shutil import get_terminal_size

    return get_terminal_size((WIDTH, 24)).columns
