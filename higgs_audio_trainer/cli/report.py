"""Command `report LOG [OTHER]`. Draws one log, or two logs side by side, as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, parse_runs
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from higgs_audio_trainer.logs.diff.comparison import Comparison
    from higgs_audio_trainer.logs.runs import SelectedLog
    from higgs_audio_trainer.report.gather import GatheredLog

_OUTPUT = "report.html"
_STDIN = "-"


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Draw a log as one HTML file that works offline: losses and accuracies, each codebook, diagnoses, "
        "samples followed through the training, the cost of logging. With a second log, draw both logs side by side "
        "and report their first difference.",
        epilog=f"example: {prog} higgs-demo/run -o report.html",
    )
    made.add_argument("log", metavar="LOG", help="output directory of a run, a log file, - for stdin")
    made.add_argument("other", metavar="OTHER", nargs="?", help="second log, to compare with LOG")
    made.add_argument(
        "--run",
        metavar="ID",
        action="append",
        default=[],
        help="run of a log with several runs (the latest); given twice, for LOG and for OTHER; a prefix is enough",
    )
    made.add_argument("-o", "--output", metavar="FILE", default=_OUTPUT, help="file to write [%(default)s]")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write a report and return the exit status.

    Raises:
        UserError: A log cannot be read, or the page cannot be written.
    """
    given = parser(prog).parse_args(arguments)
    names = [name for name in (given.log, given.other) if name is not None]
    if len(names) > 1 and _STDIN in names:
        raise UserError(
            "report: expected two files or folders, because each is read twice, got standard input (-). "
            "Save the log to a file"
        )
    run = parse_runs(given.run)
    if isinstance(run, tuple) and len(names) == 1:
        raise UserError("--run: expected one run of one log, got two. Name the log twice to compare two of its runs")
    target = Path(given.output)
    _check_target(target, names)
    problems = ProblemPrinter()
    try:
        logs = _gathered(names, run, problems)
    finally:
        problems.close()
    from higgs_audio_trainer.report.page import render
    from sinks.terminal.words import count_of

    page = render(logs, _compare(names, run) if len(names) > 1 else None).encode()
    try:
        with atomic_file(target) as file:
            file.write(page)
    except OSError as error:
        raise _unwritable(target, error) from error
    print(f"{target}: {len(page) / 1e6:.2f} MB, {count_of(sum(log.events for log in logs), 'event')}")
    return 0


def _gathered(names: Sequence[str], run: str | tuple[str, str] | None, problems: ProblemPrinter) -> list[GatheredLog]:
    """Return the contents of the logs.

    Raises:
        UserError: A log cannot be read, holds no event, or no log holds the wanted run.
    """
    from higgs_audio_trainer.logs.run_filter import NoSuchRunError
    from higgs_audio_trainer.logs.runs import selected

    runs = run if isinstance(run, tuple) else (run,) * len(names)
    logs: list[GatheredLog] = []
    missing: list[NoSuchRunError] = []
    for name, wanted in zip(names, runs, strict=True):
        select = partial(selected, [name], on_notice=problems.say, needs_known=True)
        try:
            [log] = select(wanted)
        except NoSuchRunError as error:
            missing.append(error)
            if isinstance(run, tuple) or len(missing) == len(names):
                raise
            [log] = select(None)
        logs.append(_gather(name, log, problems))
    return logs


def _gather(name: str, log: SelectedLog, problems: ProblemPrinter) -> GatheredLog:
    from higgs_audio_trainer.logs.reader import marked_lines
    from higgs_audio_trainer.report.gather import gather

    before = problems.count
    title = "standard input" if name == _STDIN else name
    gathered = gather(title, marked_lines(log, problems), _output_dir_of(name))
    gathered.damaged_lines = problems.count - before
    if not gathered.events:
        raise UserError(f"{name}: expected the log of a run, got a log without events. Name a run's folder")
    return gathered


def _output_dir_of(name: str) -> Path | None:
    """Return the output directory of a log, the parent of `events/`, or None if there is no such folder."""
    from higgs_audio_trainer.logs.files import find, output_dir_of

    if name == _STDIN:
        return None
    return output_dir_of(find([name])[0][0].files[0])


def _compare(names: Sequence[str], run: str | tuple[str, str] | None) -> Comparison | str:
    """Return the comparison of two logs, or the reason why the logs cannot be compared."""
    from higgs_audio_trainer.logs.diff.compare import diff

    try:
        return diff(names[0], names[1], run=run, on_notice=lambda _text: None)  # said when the logs were read
    except UserError as error:  # logs without common events are drawn all the same
        return str(error)


def _check_target(target: Path, names: Sequence[str]) -> None:
    """Raise `UserError` if the page would replace a log or another file that is no report."""
    from higgs_audio_trainer.logs.files import find
    from higgs_audio_trainer.report.page import BEGINNING

    for file in (file for log in find(names) for stream in log for file in stream.files):
        with suppress(OSError):
            if target.samefile(file):
                raise UserError(f"{target}: expected another file than the log, got {file} twice. Name an .html file")
    try:
        if not target.exists():
            return
        if not target.is_file():
            raise UserError(f"{target}: expected a file for the page, got something else. Name an .html file")
        with target.open("rb") as page:
            start = page.read(len(BEGINNING))
    except OSError as error:
        raise _unwritable(target, error) from error
    if start not in (b"", BEGINNING.encode()):
        raise UserError(
            f"{target}: expected no file or an earlier report, got another file. Remove the file or name another file"
        )


def _unwritable(target: Path, error: OSError) -> UserError:
    return UserError(f"{target}: {error.strerror or error}. Name another file with -o")
