"""Command `report LOG...`. Draws one log, or several logs on the same axes, as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.phases import phase

if TYPE_CHECKING:
    from higgs_audio_trainer.logs.diff.comparison import Comparison
    from higgs_audio_trainer.logs.runs import SelectedLog
    from higgs_audio_trainer.report.gather import GatheredLog

_OUTPUT = "report.html"
_STDIN = "-"
_MOST_LOGS = 8  # as many as lines that a person can tell apart
WantedRuns = Sequence[str | None]  # of each log


class EmptyLogError(UserError):
    """Log without events."""


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage="%(prog)s LOG [LOG ...] [flags]",
        description="Draw a log as one HTML file that works offline: what the run learned, its speech, losses and "
        "accuracies, each codebook, diagnoses, and samples followed through the training. Up to "
        f"{_MOST_LOGS} logs are drawn on the same axes, with their first differences.",
        epilog=f"example: {prog} higgs-demo/run -o report.html",
    )
    made.add_argument("logs", metavar="LOG", nargs="+", help="output directory of a run, a log file, - for stdin")
    made.add_argument(
        "--run",
        metavar="ID",
        action="append",
        default=[],
        help="run of a log with several runs (the latest); once for all logs, or once for each; a prefix is enough",
    )
    made.add_argument("-o", "--output", metavar="FILE", default=_OUTPUT, help="file to write [%(default)s]")
    made.add_argument(
        "-f", "--follow", action="store_true", help="write the page again while the run continues; it reloads itself"
    )
    add_no_limits(made)
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write a report and return the exit status.

    Raises:
        UserError: A log cannot be read, or the page cannot be written.
    """
    given = parser(prog).parse_args(arguments)
    names, target = given.logs, Path(given.output)
    runs = _checked(names, given.run, follows=given.follow)
    _check_target(target, names, may_be_empty=given.follow)
    if given.follow:
        from higgs_audio_trainer.cli.followed_report import follow

        return follow(names, runs, target)
    problems = ProblemPrinter()
    try:
        with phase("reading the log"):
            logs = gathered(names, runs, problems)
    finally:
        problems.close()
    with phase("comparing the logs"):
        comparisons = compared(names, runs)
    print(write_page(target, logs, comparisons))
    return 0


def _checked(names: Sequence[str], runs: Sequence[str], *, follows: bool) -> WantedRuns:
    """Return the wanted run of each log.

    Raises:
        UserError: There are too many logs or too many runs, or standard input would be read twice.
    """
    if len(names) > _MOST_LOGS:
        raise UserError(f"report: expected at most {_MOST_LOGS} logs, got {len(names)}. Leave some out")
    if _STDIN in names and len(names) > 1:
        raise UserError(
            "report: expected files or folders, because each is read twice, got standard input (-). "
            "Save the log to a file"
        )
    if _STDIN in names and follows:
        raise UserError("--follow: expected a file or folder, got standard input (-). Name the run's folder")
    if len(runs) > 1 and len(runs) != len(names):
        raise UserError(
            f"--run: expected one run, or one for each of {len(names)} logs, got {len(runs)}. "
            "Name the log twice to compare two of its runs"
        )
    return runs if len(runs) > 1 else [*runs, None][:1] * len(names)


def write_page(
    target: Path, logs: Sequence[GatheredLog], comparisons: Sequence[Comparison | str], *, refresh_s: int | None = None
) -> str:
    """Write the page of logs in one move, and return a line about the page.

    Args:
        target: File to write.
        logs: Contents of the logs.
        comparisons: Comparison of the first log with each other log.
        refresh_s: Seconds after which the page loads itself again. None for a page that does not change.

    Raises:
        UserError: The page cannot be written.
    """
    from higgs_audio_trainer.report.page import render
    from sinks.terminal.words import count_of

    with phase("drawing the report"):
        page = render(logs, comparisons, refresh_s=refresh_s).encode()
    try:
        with atomic_file(target) as file:
            file.write(page)
    except OSError as error:
        raise _unwritable(target, error) from error
    return f"{target}: {len(page) / 1e6:.2f} MB, {count_of(sum(log.events for log in logs), 'event')}"


def gathered(names: Sequence[str], runs: WantedRuns, problems: ProblemPrinter) -> list[GatheredLog]:
    """Return the contents of the logs.

    A run that is wanted for all logs may be missing in some of the logs, of which then the latest run is drawn.

    Raises:
        UserError: A log cannot be read, holds no event, or no log holds the wanted run.
    """
    from higgs_audio_trainer.logs.run_filter import NoSuchRunError
    from higgs_audio_trainer.logs.runs import selected

    logs: list[GatheredLog] = []
    missing: list[NoSuchRunError] = []
    for name, wanted in zip(names, runs, strict=True):
        select = partial(selected, [name], on_notice=problems.say, needs_known=True)
        try:
            [log] = select(wanted)
        except NoSuchRunError as error:
            missing.append(error)
            if len(set(runs)) > 1 or len(missing) == len(names):
                raise
            [log] = select(None)
        logs.append(_gather(name, log, problems))
    return logs


def _gather(name: str, log: SelectedLog, problems: ProblemPrinter) -> GatheredLog:
    from higgs_audio_trainer.logs.reader import marked_lines
    from higgs_audio_trainer.report.gather import gather

    before = problems.count
    title = "standard input" if name == _STDIN else name
    contents = gather(title, marked_lines(log, problems), _output_dir_of(name))
    contents.damaged_lines = problems.count - before
    if not contents.events:
        raise EmptyLogError(f"{name}: expected the log of a run, got a log without events. Name a run's folder")
    return contents


def _output_dir_of(name: str) -> Path | None:
    """Return the output directory of a log, the parent of `events/`, or None if there is no such folder."""
    from higgs_audio_trainer.logs.files import find, output_dir_of

    if name == _STDIN:
        return None
    return output_dir_of(find([name])[0][0].files[0])


def compared(names: Sequence[str], runs: WantedRuns) -> list[Comparison | str]:
    """Return the comparison of the first log with each other log, or the reason why the two cannot be compared."""
    return [_compare((names[0], name), (runs[0], wanted)) for name, wanted in zip(names[1:], runs[1:], strict=True)]


def _compare(names: tuple[str, str], runs: tuple[str | None, str | None]) -> Comparison | str:
    from higgs_audio_trainer.logs.diff.compare import diff

    first, second = runs
    run = (first, second) if first is not None and second is not None and first != second else first
    try:
        return diff(*names, run=run, on_notice=lambda _text: None)  # said when the logs were read
    except UserError as error:  # logs without common events are drawn all the same
        return str(error)


def _check_target(target: Path, names: Sequence[str], *, may_be_empty: bool = False) -> None:
    """Raise `UserError` if the page would replace a log or another file that is no report.

    Args:
        target: File to write.
        names: Logs on the command line.
        may_be_empty: Whether a folder may be without a log, as before a training.
    """
    from higgs_audio_trainer.logs.files import files_in, find
    from higgs_audio_trainer.report.page import BEGINNING

    logs = [name for name in names if not (may_be_empty and Path(name).is_dir() and not files_in(Path(name)))]
    for file in (file for log in find(logs) for stream in log for file in stream.files):
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
