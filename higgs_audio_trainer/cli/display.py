"""What `show` prints: the events of a log that were asked for, or one screen of all of it."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from higgs_audio_trainer.cli.faults import Faults
from higgs_audio_trainer.cli.pager import Output, paged
from higgs_audio_trainer.cli.parser import width_of
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs import filter as filters
from higgs_audio_trainer.logs.filter import Filter
from higgs_audio_trainer.logs.lines import LogLine
from sinks.console import FOR_FILES, text_of, wants_color
from sinks.terminal.escape import encodable, printable
from sinks.terminal.screen import say_on_stderr
from sinks.terminal.stream import descriptor_of, encoding_of, is_terminal

_PERIOD_S = 0.2  # how often --follow looks for more
_SUMMARY_WIDTH, _NARROWEST_SUMMARY = 80, 40  # columns


def show(given: argparse.Namespace) -> int:
    """Print logs as the flags of `show` say.

    Raises:
        UserError: a flag is wrong, or no log can be read.
    """
    chosen = _filter_of(given)
    width = width_of(given.width)
    if given.summary:
        return _summarize(given, chosen, width)
    for text in filters.unknown_events(chosen.events):
        say_on_stderr(text)
    printer = _Printer(_standard_output(), chosen, raw=given.raw, width=width)
    if given.follow:
        return printer.follow(given.paths, all_attempts=given.all_attempts)
    return printer.all(given.paths, all_attempts=given.all_attempts, pager=not given.no_pager)


def _filter_of(given: argparse.Namespace) -> Filter:
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


def _standard_output() -> TextIO:
    # A closed one has its descriptor pointed at nothing, see `main`; there is no object for it.
    return sys.stdout if sys.stdout is not None else Path(os.devnull).open("w", encoding="utf-8")


class _Printer:
    """Prints lines, and counts them.

    Args:
        stdout: where to.
        chosen: which.
        raw: as they are.
        width: columns in which the text is folded.
    """

    def __init__(self, stdout: TextIO, chosen: Filter, *, raw: bool, width: int | None) -> None:
        self._stdout = stdout
        self._chosen = chosen
        self._raw = raw
        self._text = partial(text_of, color=wants_color(stdout, os.environ), encoding=encoding_of(stdout), width=width)
        self._read = self._shown = 0

    def all(self, paths: Sequence[str], *, all_attempts: bool, pager: bool) -> int:
        """Print what there is."""
        from higgs_audio_trainer.logs.reader import read_lines

        faults = Faults()
        lines = read_lines(*paths, all_attempts=all_attempts, on_problem=faults)
        pages = pager and is_terminal(self._stdout)
        with faults.held(wanted=pages), paged(self._stdout, os.environ, wanted=pages) as out:
            for line in lines:
                out.check()
                self._print(line, out)
        faults.close()
        if not self._read and faults.count:
            raise _no_log(paths)
        if not self._shown:
            say_on_stderr(f"no event matches ({self._read:,} read)")
        return 0

    def follow(self, paths: Sequence[str], *, all_attempts: bool) -> int:
        """Print what there is and what comes, until it is interrupted or nobody reads."""
        from higgs_audio_trainer.logs.follow import Follower

        faults = Faults()
        out, pause = Output(self._stdout), _pause_before(self._stdout)
        follower = Follower(*paths, all_attempts=all_attempts, on_problem=faults)
        said: set[Path] = set()
        try:
            while True:
                for line in follower.lines():
                    if self._print(line, out):
                        out.flush()
                if follower.has_ended:
                    return 0
                for folder in (folder for folder in follower.waiting if folder not in said):
                    say_on_stderr(printable(f"waiting for events in {folder}"))
                    said.add(folder)
                pause()
        finally:
            faults.close()

    def _print(self, line: LogLine, out: Output) -> bool:
        """Print a line if it is one of those that are asked for; tell whether it is."""
        self._read += 1
        if not self._chosen.matches(line.record) or self._is_for_files(line.record["event"]):
            return False
        self._shown += 1
        if self._raw:
            out.write_bytes(line.raw if line.raw.endswith(b"\n") else line.raw + b"\n")
        else:
            out.write(self._text(line.record) + "\n")
        return True

    def _is_for_files(self, event: str) -> bool:
        """Tell whether the console does not show an event, and nobody asked for it by name."""
        return event in FOR_FILES and not self._raw and not self._chosen.events


def _no_log(paths: Sequence[str]) -> UserError:
    return UserError(f"{', '.join(paths)}: expected a log, got no line that holds an event. Name a run's folder")


def _pause_before(stdout: TextIO) -> Callable[[], None]:
    """Make what waits until it is time for another look, and notices where nobody reads any more."""
    descriptor = descriptor_of(stdout)
    if descriptor is None:
        return partial(time.sleep, _PERIOD_S)
    poll = select.poll()
    poll.register(descriptor, 0)  # what is always told: its reader is gone

    def pause() -> None:
        if poll.poll(_PERIOD_S * 1000):
            raise BrokenPipeError

    return pause


def _summarize(given: argparse.Namespace, chosen: Filter, width: int | None) -> int:
    for flag in ("raw", "follow", "all_attempts"):
        if getattr(given, flag):
            raise UserError(f"--summary: expected no --{flag.replace('_', '-')} beside it. Leave one of them out")
    if not chosen.takes_all:
        raise UserError("--summary: expected no flag that chooses events, for it is of the whole log. Leave them out")
    from higgs_audio_trainer.logs.summary.figures import summaries
    from higgs_audio_trainer.logs.summary.text import render_summary

    if width is not None and width < _NARROWEST_SUMMARY:
        raise UserError(f"--width: expected at least {_NARROWEST_SUMMARY} columns with --summary, got {width}")
    stdout = _standard_output()
    faults = Faults()
    encoding = encoding_of(stdout)
    for index, summary in enumerate(summaries(*given.paths, on_problem=faults)):
        if not summary.events and faults.count:
            raise _no_log(given.paths)
        text = render_summary(summary, width=width or _columns(stdout), encoding=encoding)
        stdout.write(encodable("\n" * (index > 0) + text + "\n", encoding))
    faults.close()
    return 0


def _columns(stdout: TextIO) -> int:
    if not is_terminal(stdout):
        return _SUMMARY_WIDTH
    columns = shutil.get_terminal_size((_SUMMARY_WIDTH, _SUMMARY_WIDTH)).columns
    return max(min(columns, _SUMMARY_WIDTH), _NARROWEST_SUMMARY)
