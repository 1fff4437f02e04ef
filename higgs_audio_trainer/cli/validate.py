"""`validate FILE|DIR...`: what is wrong with a log."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from higgs_audio_trainer.cli.parser import ArgumentParser
from higgs_audio_trainer.logs.validation.validate import Validation, validate
from higgs_audio_trainer.logs.validation.violation import Violation
from sinks.terminal.escape import encodable, known_encoding, printable

_FOUND = 1
_SHOWN = 100  # errors, and as many notes


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Check a log: each line against its schema, torn lines, repeated members and events, gaps in seq "
        "and what explains them, the order of steps, run_start and run_end. Notes are what is out of the ordinary and "
        "accounted for. Exit status: 0 clean, 1 findings, 2 could not read.",
        epilog=f"example: {prog} my-run --format json",
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help="a run's output directory, log files, - for stdin")
    made.add_argument("--format", choices=("text", "json"), default="text", help="[%(default)s]")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Check logs and print what was found."""
    given = parser(prog).parse_args(arguments)
    found = validate(*given.paths)
    with suppress(BrokenPipeError):  # who closed the pipe has read enough; the exit status is of what was found so far
        if given.format == "json":
            sys.stdout.write(json.dumps(_report(found), indent=2) + "\n")
        else:
            _print(found, ", ".join(given.paths))
    return _FOUND if found.errors else 0


def _print(found: Validation, name: str) -> None:
    for finding in found:
        if finding.severity == "note" and found.notes <= _SHOWN:
            _say(f"note: {printable(str(finding))}")
        elif finding.severity == "error" and found.errors <= _SHOWN:
            _say(printable(str(finding)))
    if found.errors > _SHOWN:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.kinds.most_common())
        _say(f"{found.errors:,} errors, of which {_SHOWN} are shown. By kind: {kinds}")
    if found.notes > _SHOWN:
        _say(f"{found.notes:,} notes, of which {_SHOWN} are shown")
    _say(f"{printable(name)}: {_verdict(found)}")


def _say(text: str) -> None:
    print(encodable(text, known_encoding(sys.stdout.encoding)))


def _verdict(found: Validation) -> str:
    looked_at = [
        _counted(found.events, "event"),
        _counted(len(found.ranks), "rank"),
        _counted(len(found.attempts), "attempt"),
    ]
    if found.is_golden:
        looked_at[1:] = ["a golden"]
    elif not found.errors:
        looked_at.append(f"seq without gaps{' but those noted' if found.has_noted_gaps else ''}")
    result = _counted(found.errors, "finding") if found.errors else "clean"
    notes = f" and {_counted(found.notes, 'note')}" if found.notes else ""
    return f"{result}{notes}: {', '.join(looked_at)}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _report(found: Validation) -> dict[str, Any]:
    findings, notes = _first_of_each(found)
    return {
        "clean": not found.errors,
        "events": found.events,
        "ranks": sorted(found.ranks),
        "attempts": sorted(found.attempts),
        "errors": found.errors,
        "notes": found.notes,
        "kinds": dict(found.kinds.most_common()),
        "findings": [_entry(finding) for finding in (*findings, *notes)],
    }


def _first_of_each(found: Validation) -> tuple[list[Violation], list[Violation]]:
    errors: list[Violation] = []
    notes: list[Violation] = []
    for finding in found:
        kept = errors if finding.severity == "error" else notes
        if len(kept) < _SHOWN:
            kept.append(finding)
    return errors, notes


def _entry(finding: Violation) -> dict[str, str]:
    names = ("where", "path", "expected", "got", "kind", "severity")
    # The name of a file may be bytes that are no UTF-8, which JSON cannot hold.
    return {name: getattr(finding, name).encode(errors="backslashreplace").decode() for name in names}
