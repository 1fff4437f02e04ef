"""Command `diagnose FILE|DIR...`. Reports the findings of the training checks for a finished or a growing log."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from higgs_audio_trainer.cli.argument_parser import ArgumentParser, parse_width
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.diagnosed_log import DiagnosedLog, diagnose
from higgs_audio_trainer.diagnoses.finding import SEVERITIES
from higgs_audio_trainer.logs.diff.reports.github_report import annotation, plain
from higgs_audio_trainer.phases import phase
from sinks.console import wants_color
from sinks.record_text import RecordText
from sinks.rendering.record import RenderFailures
from sinks.terminal.escape import printable
from sinks.terminal.screen import say_on_stderr
from sinks.terminal.stream import encoding_of
from sinks.terminal.words import count_of

_EXIT_FINDINGS = 1
_MAX_ANNOTATIONS = 10  # GitHub shows 10 annotations of a step
_LEVELS = {"note": "notice", "warning": "warning", "error": "error"}


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Run the checks of --diagnose over the log of one run: labels and masks, stop tokens, codebooks, "
        "losses. Each finding is printed once, with its figures, the usual cause and a fix. Diagnoses in the log are "
        "ignored. Exit status: 0 no findings or only notes, 1 warnings or errors, 2 could not read.",
        epilog=f"example: {prog} higgs-demo/run --width 80",
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help="output directory of a run, log files, - for stdin")
    made.add_argument("--run", metavar="ID", help="run of a log with several runs (the latest); a prefix is enough")
    made.add_argument("--format", choices=("text", "json", "github"), default="text", help="[%(default)s]")
    made.add_argument("--width", metavar="N", help="wrap lines of text at N columns")
    add_no_limits(made)
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Check a log, print the findings and return the exit status.

    Raises:
        UserError: A flag is wrong, or the log has nothing to check.
    """
    given = parser(prog).parse_args(arguments)
    width = parse_width(given.width)
    problems = ProblemPrinter()
    try:
        with phase("checking the training"):
            diagnosed = diagnose(*given.paths, run=given.run, on_problem=problems, on_notice=problems.say)
    finally:
        problems.close()
    if not diagnosed.has_counts and diagnosed.steps:
        say_on_stderr("the log has no token_counts, like logs of older versions: checks that need them are skipped")
    with suppress(BrokenPipeError):  # the reader closed the pipe; the exit status still reports the findings
        for text in _REPORTS[given.format](diagnosed, width):
            sys.stdout.write(text + "\n")
    return _EXIT_FINDINGS if diagnosed.has_findings else 0


def _scope(diagnosed: DiagnosedLog) -> str:
    """Return the numbers of logged steps and evaluations in words.

    Example:
        >>> _scope(DiagnosedLog(steps=3, evaluations=1))
        '3 logged steps and 1 evaluation'
    """
    evaluations = f" and {count_of(diagnosed.evaluations, 'evaluation')}" if diagnosed.evaluations else ""
    return count_of(diagnosed.steps, "logged step") + evaluations


def _text(diagnosed: DiagnosedLog, width: int | None, *, color: bool | None = None) -> Iterator[str]:
    color = wants_color(sys.stdout, os.environ) if color is None else color
    text_of = RecordText(color=color, encoding=encoding_of(sys.stdout), on_failure=RenderFailures(say_on_stderr))
    for event, reported in diagnosed.findings:
        place = f"at step {reported.first_step:,}, found at {reported.times:,} of {_scope(diagnosed)}"
        text = text_of({"event": event.name} | asdict(event) | {"repeats": 0, "found": place}, width)
        assert text is not None, "the default is to show every event"
        yield text
    counts = Counter(reported.severity for _, reported in diagnosed.findings)
    parts = [count_of(counts[severity], severity) for severity in reversed(SEVERITIES) if counts[severity]]
    yield f"{', '.join(parts) or 'nothing found'} in {_scope(diagnosed)}"


def _json(diagnosed: DiagnosedLog, _width: int | None) -> Iterator[str]:
    reports = [
        asdict(event)
        | {
            "repeats": reported.repeats,
            "times": reported.times,
            "first_step": reported.first_step,
            "last_step": reported.last_step,
        }
        for event, reported in diagnosed.findings
    ]
    yield json.dumps(_finite(reports), indent=2, default=str)


def _finite(value: Any) -> Any:
    """Return a copy with null instead of NaN and infinity, which JSON lacks.

    Example:
        >>> _finite({"loss": [float("nan"), 1.5]})
        {'loss': [None, 1.5]}
    """
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _github(diagnosed: DiagnosedLog, width: int | None) -> Iterator[str]:
    """Yield annotations of the worst findings, then all findings as text."""
    worst_first = sorted(diagnosed.findings, key=lambda item: -SEVERITIES.index(item[1].severity))
    for event, reported in worst_first[:_MAX_ANNOTATIONS]:
        codebook = "" if event.codebook is None else f", codebook {event.codebook}"
        title = f"{event.code}{codebook} at step {reported.first_step}"
        yield annotation(_LEVELS[event.severity], printable(title), printable(event.message))
    for text in _text(diagnosed, width, color=False):
        yield from map(plain, text.split("\n"))


_REPORTS: dict[str, Callable[[DiagnosedLog, int | None], Iterator[str]]] = {
    "text": _text,
    "json": _json,
    "github": _github,
}
