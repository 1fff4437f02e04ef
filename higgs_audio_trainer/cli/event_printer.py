"""Output of `show`: selected events of a log, or summaries of whole logs."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from higgs_audio_trainer.cli.argument_parser import parse_width
from higgs_audio_trainer.cli.pager import Output, paged
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs import filter as filters
from higgs_audio_trainer.logs.filter import Filter
from higgs_audio_trainer.logs.lines import LogLine
from higgs_audio_trainer.phases import phase
from sinks.console import FOR_FILES, wants_color
from sinks.protocol import Record
from sinks.record_text import RecordText, TextOptions
from sinks.rendering.record import RenderFailures
from sinks.terminal.escape import encodable_text, printable
from sinks.terminal.fold import terminal_columns
from sinks.terminal.screen import say_on_stderr
from sinks.terminal.stream import descriptor_of, encoding_of, is_terminal

_READING = "reading the log"
_PERIOD_S = 0.2  # between two reads of --follow
#: Flags that select events, as attributes of the parsed arguments.
_SELECTING = ("event", "step", "rank", "modality", "codebook", "split", "sample_id", "mismatches_only")
_SUMMARY_WIDTH, _MIN_SUMMARY_WIDTH = 80, 40  # columns


def print_events(given: argparse.Namespace) -> int:
    """Print the events selected by the flags of `show`, and return the exit status.

    Raises:
        UserError: A flag is wrong, or no log can be read.
    """
    selection = _selection(given)
    width = parse_width(given.width)
    for text in filters.unknown_events(selection.events):
        say_on_stderr(text)
    printer = _EventPrinter(
        _standard_output(),
        selection,
        raw=given.raw,
        width=width,
        options=TextOptions(given.console),
        samples=_samples(given),
    )
    return printer.follow(given) if given.follow else printer.print_all(given)


def _selection(given: argparse.Namespace) -> Filter:
    return Filter(
        events=filters.events_of(given.event),
        steps=None if given.step is None else filters.steps_of(given.step),
        ranks=filters.numbers_of("--rank", given.rank),
        codebooks=filters.numbers_of("--codebook", given.codebook),
        modality=filters.choice_of("--modality", given.modality, filters.MODALITIES),
        split=filters.choice_of("--split", given.split, filters.SPLITS),
        samples=frozenset(given.sample_id),
        mismatches_only=given.mismatches_only,
    )


def _samples(given: argparse.Namespace) -> int | None:
    """Return the number of samples of a step to print, or None for all."""
    text = given.log_samples
    if text is not None and not (text.isascii() and text.isdigit()):
        raise UserError(f"--log_samples: expected a number of samples, 0 for none, got {text!r}")
    return None if text is None else int(text)


def _standard_output() -> TextIO:
    # Python has no object for a closed descriptor, which `main` points to /dev/null.
    return sys.stdout if sys.stdout is not None else Path(os.devnull).open("w", encoding="utf-8")


class _EventPrinter:
    """Printer of selected lines.

    Args:
        stdout: Standard output.
        selection: Filter of events.
        raw: Whether to print the unchanged lines.
        width: Columns at which text is wrapped. None for the columns of the terminal.
        options: Amount of text.
        samples: Number of samples of a step to print, or None for all.
    """

    def __init__(
        self,
        stdout: TextIO,
        selection: Filter,
        *,
        raw: bool,
        width: int | None,
        options: TextOptions,
        samples: int | None,
    ) -> None:
        self._stdout = stdout
        self._selection = selection
        self._raw = raw
        self._width = width
        self._samples = samples
        self._text_of = RecordText(
            color=wants_color(stdout, os.environ),
            encoding=encoding_of(stdout),
            options=options,
            on_failure=RenderFailures(say_on_stderr),
        )
        self._out = Output(stdout)
        self._read = self._printed = 0

    def print_all(self, given: argparse.Namespace) -> int:
        """Print the events of logs, through a pager on a terminal."""
        from higgs_audio_trainer.logs.light_check import LightCheck
        from higgs_audio_trainer.logs.reader import read_lines

        problems = ProblemPrinter()
        is_screen = is_terminal(self._stdout)
        pager = not given.no_pager and is_screen
        with problems.postponed(wanted=pager):
            with phase(_READING):
                read = read_lines(
                    *given.paths,
                    run=given.run,
                    all_attempts=given.all_attempts,
                    on_problem=problems,
                    on_notice=problems.say,
                    event_of=LightCheck().event_of,
                )
                lines = self._selected(read)
                first = list(islice(lines, 1))
                if not is_screen:  # the lines and the phase do not share a terminal
                    self._print_all(chain(first, lines))
            if is_screen and first:
                with paged(self._stdout, os.environ, wanted=pager) as self._out:
                    self._print_all(chain(first, lines if pager else _awaited(lines)))
        problems.close()
        if not self._read and problems.count:
            raise _no_log(given)
        if not self._printed:
            say_on_stderr(f"no event matches ({self._read:,} read)")
        return 0

    def follow(self, given: argparse.Namespace) -> int:
        """Print present and new events until the training ends, an interrupt, or the reader closes the output."""
        from higgs_audio_trainer.logs.follow import Follower

        problems = ProblemPrinter()
        pause = _pause_before(self._stdout)
        follower = Follower(
            *given.paths,
            run=given.run,
            all_attempts=given.all_attempts,
            on_problem=problems,
            on_notice=problems.say,
        )
        announced: set[Path] = set()
        lines = _awaited(self._selected(follower.lines()))
        try:
            while True:
                for line in lines:
                    if self._print(line):
                        self._out.flush()
                lines = self._selected(follower.lines())
                if follower.has_ended:
                    return 0
                for folder in (folder for folder in follower.waiting if folder not in announced):
                    say_on_stderr(printable(f"waiting for events in {folder}"))
                    announced.add(folder)
                pause()
        finally:
            problems.close()

    def _selected(self, lines: Iterable[LogLine]) -> Iterator[LogLine]:
        """Yield the selected lines. The text of a line may depend on the lines before."""
        for line in lines:
            self._out.check()
            self._read += 1
            if self._selection.matches(line.record) and not self._is_hidden(line.record):
                yield line
            elif not self._raw:
                self._text_of.skip(line.record)

    def _print_all(self, lines: Iterable[LogLine]) -> None:
        for line in lines:
            self._print(line)

    def _print(self, line: LogLine) -> bool:
        """Print a selected line, and return False for a line without a text."""
        if self._raw:
            self._out.write_bytes(line.raw if line.raw.endswith(b"\n") else line.raw + b"\n")
        else:
            text = self._text_of(line.record, self._width or terminal_columns(self._stdout))
            if text is None:
                return False
            self._out.write(text + "\n")
        self._printed += 1
        return True

    def _is_hidden(self, record: Record) -> bool:
        """Return whether a record is for files and no flag names its event, or is of a sample beyond the number."""
        if record["event"] in FOR_FILES and not self._raw and not self._selection.events:
            return True
        index = record.get("sample_index")
        return self._samples is not None and isinstance(index, int) and index >= self._samples


def _awaited(lines: Iterator[LogLine]) -> Iterator[LogLine]:
    """Yield lines for a terminal. A phase shows the reading up to each line, and makes room for the line."""
    while True:
        with phase(_READING):
            line = next(lines, None)
        if line is None:
            return
        yield line


def _no_log(given: argparse.Namespace) -> UserError:
    return UserError(f"{', '.join(given.paths)}: expected a log, got no line that holds an event. Name a run's folder")


def _pause_before(stdout: TextIO) -> Callable[[], None]:
    """Return a function that waits for the next read. The function raises `BrokenPipeError` if stdout has no reader."""
    descriptor = descriptor_of(stdout)
    if descriptor is None:
        return partial(time.sleep, _PERIOD_S)
    poll = select.poll()
    poll.register(descriptor, 0)  # poll always reports a hang-up or an error

    def pause() -> None:
        if poll.poll(_PERIOD_S * 1000):
            raise BrokenPipeError

    return pause


def print_summaries(given: argparse.Namespace) -> int:
    """Print a summary of each log, and return the exit status.

    Raises:
        UserError: A flag is wrong, or no log can be read.
    """
    selection, width = _selection(given), parse_width(given.width)
    for flag in ("raw", "follow", "all_attempts"):
        if getattr(given, flag):
            raise UserError(f"--summary: expected no --{flag.replace('_', '-')}. Remove one of the two flags")
    if not selection.takes_all:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in _SELECTING if getattr(given, name))
        raise UserError(f"--summary covers the whole log. Remove {flags}")
    from higgs_audio_trainer.logs.summary.figures import summaries
    from higgs_audio_trainer.logs.summary.text import render_summary

    if width is not None and width < _MIN_SUMMARY_WIDTH:
        raise UserError(f"--width: expected at least {_MIN_SUMMARY_WIDTH} columns with --summary, got {width}")
    stdout = _standard_output()
    problems = ProblemPrinter()
    encoding = encoding_of(stdout)
    with phase(_READING):
        found = list(summaries(*given.paths, run=given.run, on_problem=problems, on_notice=problems.say))
    for index, summary in enumerate(found):
        if not summary.events and problems.count:
            raise _no_log(given)
        text = render_summary(summary, width=width or _columns(stdout), encoding=encoding)
        stdout.write(encodable_text("\n" * (index > 0) + text + "\n", encoding))
    problems.close()
    return 0


def _columns(stdout: TextIO) -> int:
    if not is_terminal(stdout):
        return _SUMMARY_WIDTH
    columns = shutil.get_terminal_size((_SUMMARY_WIDTH, _SUMMARY_WIDTH)).columns
    return max(min(columns, _SUMMARY_WIDTH), _MIN_SUMMARY_WIDTH)
