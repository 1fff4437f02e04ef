"""`diagnose FILE|DIR...`: what the checks find in a finished log, or in one that is being written."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from higgs_audio_trainer.cli.faults import Faults
from higgs_audio_trainer.cli.parser import ArgumentParser, width_of
from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser, Said
from higgs_audio_trainer.diagnoses.finding import SEVERITIES
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import Diagnosis, RunStart
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.logs.diff.reports.github_report import annotation, plain
from higgs_audio_trainer.logs.files import find
from higgs_audio_trainer.logs.logged_steps import logged_steps
from higgs_audio_trainer.logs.reader import read
from sinks.console import text_of, wants_color
from sinks.terminal.escape import printable
from sinks.terminal.screen import say_on_stderr
from sinks.terminal.stream import encoding_of

_FOUND = 1
_MOST_ANNOTATIONS = 10  # that GitHub shows of a step
_LEVELS = {"note": "notice", "warning": "warning", "error": "error"}


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Run the checks of a training over the log of one run, as --diagnose does while it trains: labels "
        "and masks, stop tokens, codebooks, losses. Each fault is said once, with its figures, the usual cause and "
        "what to do. What the training found itself is found anew. Exit status: 0 nothing but notes, 1 warnings or "
        "errors, 2 could not read.",
        epilog=f"example: {prog} higgs-demo/run --width 80",
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help="a run's output directory, log files, - for stdin")
    made.add_argument("--format", choices=("text", "json", "github"), default="text", help="[%(default)s]")
    made.add_argument("--width", metavar="N", help="fold lines of text in N columns")
    return made


@dataclass(slots=True)
class _Found:
    """What was found in a log.

    Attributes:
        findings: by the step at which each was found first: the worst that was said, and how often it was found.
        steps: how many due steps there are.
        evaluations: how many evaluations.
        has_counts: whether the log has `token_counts`.
    """

    findings: list[tuple[Diagnosis, Said]] = field(default_factory=list)
    steps: int = 0
    evaluations: int = 0
    has_counts: bool = False

    @property
    def looked_at(self) -> str:
        """What the checks looked at."""
        evaluations = f" and {_count(self.evaluations, 'evaluation')}" if self.evaluations else ""
        return _count(self.steps, "logged step") + evaluations


def run(arguments: Sequence[str], prog: str) -> int:
    """Check a log and print what is found.

    Raises:
        UserError: a flag is wrong, or there is nothing in the log that could be checked.
    """
    given = parser(prog).parse_args(arguments)
    width = width_of(given.width)
    if len(logs := find(given.paths)) != 1:
        raise UserError(f"{', '.join(given.paths)}: expected the log of one run, got {len(logs)}. Name one of them")
    faults = Faults()
    found = _look(logged_steps(read(*given.paths, on_problem=faults)))
    faults.close()
    if not found.steps + found.evaluations:
        raise UserError(
            f"{', '.join(given.paths)}: expected the log of a training, got no train_step and no eval_result. "
            "Name a run's folder"
        )
    if not found.has_counts and found.steps:
        say_on_stderr("the log has no token_counts, as older versions wrote it: some checks need them")
    with suppress(BrokenPipeError):  # who closed the pipe has read enough; the exit status is of what was found
        for text in _REPORTS[given.format](found, width):
            sys.stdout.write(text + "\n")
    return _FOUND if any(said.severity != "note" for _, said in found.findings) else 0


def _look(parts: Iterable[RunStart | LoggedStep]) -> _Found:
    found, diagnoser = _Found(), Diagnoser()
    worst: dict[tuple[str, str | None, int | None], Diagnosis] = {}
    for part in parts:
        if isinstance(part, RunStart):
            diagnoser.start(part)
            continue
        found.steps += part.train is not None
        found.evaluations += part.evaluation is not None
        found.has_counts |= bool(part.counts)
        worst |= {(event.code, event.modality, event.codebook): event for event in diagnoser.check(part)}
    findings = [(worst[key], said) for key, said in diagnoser.said.items()]
    found.findings = sorted(findings, key=lambda item: item[1].first_step)
    return found


def _text(found: _Found, width: int | None, *, color: bool | None = None) -> Iterator[str]:
    encoding = encoding_of(sys.stdout)
    color = wants_color(sys.stdout, os.environ) if color is None else color
    shown: Callable[[Any], str] = partial(text_of, color=color, encoding=encoding, width=width)
    for event, said in found.findings:
        yield shown({"event": event.name} | asdict(event) | {"repeats": 0, "found": _place(said, found)})
    yield _verdict(found)


def _place(said: Said, found: _Found) -> str:
    return f"at step {said.first_step:,}, found at {said.times:,} of {found.looked_at}"


def _verdict(found: _Found) -> str:
    counts = Counter(said.severity for _, said in found.findings)
    parts = [_count(counts[severity], severity) for severity in reversed(SEVERITIES) if counts[severity]]
    return f"{', '.join(parts) or 'nothing found'} in {found.looked_at}"


def _json(found: _Found, _width: int | None) -> Iterator[str]:
    reports = [
        asdict(event)
        | {
            "repeats": said.repeats,
            "times": said.times,
            "first_step": said.first_step,
            "last_step": said.last_step,
        }
        for event, said in found.findings
    ]
    yield json.dumps(_finite(reports), indent=2, default=str)


def _finite(value: Any) -> Any:
    """Put null for what JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _github(found: _Found, width: int | None) -> Iterator[str]:
    """Annotate the worst first, and say all as text."""
    worst_first = sorted(found.findings, key=lambda item: -SEVERITIES.index(item[1].severity))
    for event, said in worst_first[:_MOST_ANNOTATIONS]:
        about = "" if event.codebook is None else f", codebook {event.codebook}"
        title = f"{event.code}{about} at step {said.first_step}"
        yield annotation(_LEVELS[event.severity], printable(title), printable(event.message))
    for text in _text(found, width, color=False):
        yield from map(plain, text.split("\n"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_REPORTS: dict[str, Callable[[_Found, int | None], Iterator[str]]] = {"text": _text, "json": _json, "github": _github}
