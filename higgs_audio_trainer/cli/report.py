"""`report LOG [OTHER]`: a page about one log, or about two beside each other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_audio_trainer.cli.parser import ArgumentParser
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from higgs_audio_trainer.logs.diff.comparison import Comparison
    from higgs_audio_trainer.report.gather import GatheredLog

_OUTPUT = "report.html"
_STDIN = "-"
_PUBLIC = 0o666


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Draw a log as one HTML file that opens offline and loads nothing: losses and accuracies, each "
        "codebook, diagnoses, samples followed through the training, what logging cost. With a second log, both "
        "beside each other and where they first differ.",
        epilog=f"example: {prog} higgs-demo/run -o report.html",
    )
    made.add_argument("log", metavar="LOG", help="a run's output directory, a log file, - for stdin")
    made.add_argument("other", metavar="OTHER", nargs="?", help="another one to compare with it")
    made.add_argument("-o", "--output", metavar="FILE", default=_OUTPUT, help="where the page goes [%(default)s]")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write a report.

    Raises:
        UserError: a log cannot be read, or the page not be written.
    """
    given = parser(prog).parse_args(arguments)
    names = [name for name in (given.log, given.other) if name is not None]
    if len(names) > 1 and _STDIN in names:
        raise UserError("report: expected two files or folders, which are read twice, got standard input (-). Save it")
    target = Path(given.output)
    _refuse(target, names)
    logs = [_gathered(name) for name in names]
    from higgs_audio_trainer.report.page import render

    page = render(logs, _compared(names) if len(names) > 1 else None)
    _write(target, page)
    print(f"{target}: {len(page.encode()) / 1e6:.2f} MB, {sum(log.events for log in logs):,} events")
    return 0


def _gathered(name: str) -> GatheredLog:
    from higgs_audio_trainer.cli.faults import Faults
    from higgs_audio_trainer.logs.reader import read
    from higgs_audio_trainer.report.gather import gather

    faults = Faults()
    try:
        shown = "standard input" if name == _STDIN else name
        found = gather(shown, read(name, on_problem=faults), _folder_of(name))
    finally:
        faults.close()
    found.damaged_lines = faults.count
    if not found.events:
        raise UserError(f"{name}: expected the log of a run, got no event in it. Name a run's folder")
    return found


def _folder_of(name: str) -> Path | None:
    """Find the output directory of a log: the folder that has its `events/`."""
    from higgs_audio_trainer.logs.files import find

    if name == _STDIN:
        return None
    folder = find([name])[0][0].files[0].absolute().parent
    return folder.parent if folder.name == "events" else None


def _compared(names: Sequence[str]) -> Comparison | str:
    from higgs_audio_trainer.logs.diff.compare import compare

    try:
        return compare(names[0], names[1])
    except UserError as error:  # they have nothing in common, which is no reason not to draw them
        return str(error)


def _refuse(target: Path, names: Sequence[str]) -> None:
    """Refuse to write over a log, or anything else that is no report."""
    from higgs_audio_trainer.logs.files import find
    from higgs_audio_trainer.report.page import BEGINNING

    for stream in (stream for log in find(names) for stream in log):
        for file in stream.files:
            with suppress(OSError):
                if target.samefile(file):
                    raise UserError(
                        f"{target}: expected another file than the log, got {file} twice. Name an .html file"
                    )
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
        raise UserError(f"{target}: expected no file or an earlier report, got another file. Remove it or name another")


def _write(target: Path, page: str) -> None:
    """Write the page beside its place, and put it there once it is whole."""
    umask = os.umask(0)
    os.umask(umask)
    try:
        descriptor, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(page)
                os.fchmod(file.fileno(), _PUBLIC & ~umask)
            Path(beside).replace(target)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> UserError:
    return UserError(
        f"{target}: expected a place for the page, got: {error.strerror or error}. Name another file with -o"
    )
