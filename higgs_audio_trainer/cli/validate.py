"""Command `validate FILE|DIR...`. Checks a log against the schema and the promises of the format."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.logs.validation.validate import Validation, validate
from higgs_audio_trainer.logs.validation.violation import Violation
from higgs_audio_trainer.phases import aside, phase
from sinks.terminal.escape import encodable_text, known_encoding, printable
from sinks.terminal.words import count_of

_EXIT_FINDINGS = 1
_MAX_SHOWN = 100  # errors, and as many notes


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Check a log: the schema of each line, torn lines, repeated members and events, gaps in seq and "
        "their explanations, the order of steps, run_start and run_end. A note is unusual but explained. "
        "Exit status: 0 clean, 1 findings, 2 could not read.",
        epilog=f"example: {prog} my-run --format json",
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help="output directory of a run, log files, - for stdin")
    made.add_argument("--run", metavar="ID", help="of a log with several runs, this one (all); a prefix is enough")
    made.add_argument("--format", choices=("text", "json"), default="text", help="[%(default)s]")
    add_no_limits(made)
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Check logs, print the findings and return the exit status."""
    given = parser(prog).parse_args(arguments)
    with phase("checking the log"):
        validation = validate(*given.paths, run=given.run, on_notice=ProblemPrinter().say)
        with suppress(BrokenPipeError):  # the reader closed the pipe; the exit status reports the findings so far
            if given.format == "json":
                _print(json.dumps(_report(validation), indent=2))
            else:
                _print_all(validation, ", ".join(given.paths))
    return _EXIT_FINDINGS if validation.errors else 0


def _print_all(validation: Validation, name: str) -> None:
    for finding in validation:
        if finding.severity == "note" and validation.notes <= _MAX_SHOWN:
            _print(f"note: {printable(str(finding))}")
        elif finding.severity == "error" and (validation.errors <= _MAX_SHOWN or finding.kind == "damage"):
            _print(printable(str(finding)))
    if validation.errors > _MAX_SHOWN:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in validation.kinds.most_common())
        _print(f"{validation.errors:,} errors, of which {_MAX_SHOWN} are shown. By kind: {kinds}")
    if validation.notes > _MAX_SHOWN:
        _print(f"{validation.notes:,} notes, of which {_MAX_SHOWN} are shown")
    _print(f"{printable(name)}: {_summary(validation)}")


def _print(text: str) -> None:
    with aside():
        print(encodable_text(text, known_encoding(sys.stdout.encoding)))


def _summary(validation: Validation) -> str:
    scope = [
        count_of(validation.events, "event"),
        count_of(len(validation.ranks), "rank"),
        count_of(len(validation.attempts), "attempt"),
    ]
    if validation.is_golden:
        scope[1:] = ["a golden"]
    elif not validation.errors:
        scope.append("seq without gaps" + (" except the noted gaps" if validation.has_noted_gaps else ""))
    result = count_of(validation.errors, "finding") if validation.errors else "clean"
    notes = f" and {count_of(validation.notes, 'note')}" if validation.notes else ""
    return f"{result}{notes}: {', '.join(scope)}"


def _report(validation: Validation) -> dict[str, Any]:
    errors: list[Violation] = []
    notes: list[Violation] = []
    for finding in validation:
        shown = errors if finding.severity == "error" else notes
        if len(shown) < _MAX_SHOWN or finding.kind == "damage":
            shown.append(finding)
    return {
        "clean": not validation.errors,
        "events": validation.events,
        "ranks": sorted(validation.ranks),
        "attempts": sorted(validation.attempts),
        "errors": validation.errors,
        "notes": validation.notes,
        "kinds": dict(validation.kinds.most_common()),
        "findings": [_entry(finding) for finding in (*errors, *notes)],
    }


def _entry(finding: Violation) -> dict[str, str]:
    names = ("where", "path", "expected", "got", "kind", "severity")
    # A file name may have bytes that are not UTF-8, which JSON cannot hold.
    return {name: getattr(finding, name).encode(errors="backslashreplace").decode() for name in names}
