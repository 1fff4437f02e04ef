"""The console sink: what a person reads while the model trains."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from sinks.null import discard
from sinks.protocol import Record, Sink, SinkContext
from sinks.rendering import render
from sinks.shorten import fits, shortened
from sinks.terminal.escape import encodable, known_encoding
from sinks.terminal.fold import folded
from sinks.terminal.screen import Screen
from sinks.terminal.stream import encoding_of, is_terminal

#: Events that no person reads while a model trains: the files have them, and `show` prints them when they are named.
FOR_FILES = ("token_counts",)
_LONGEST_RECORD_BYTES = 64 * 1024  # as a line of JSON; ten million tokens are for a file


def wants_color(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Decide on colour: NO_COLOR forbids it, then FORCE_COLOR asks for it, then a terminal gets it unless TERM=dumb.

    The order is Python's own (`_colorize`). See https://no-color.org and https://force-color.org: a variable counts
    when it is set and not empty.
    """
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return environment.get("TERM") != "dumb" and is_terminal(stream)


def text_of(record: Record, *, color: bool, encoding: str, width: int | None = None) -> str:
    """Make the text of a record that the console shows, during a training and after it.

    Args:
        record: what a sink is given, or a line of a log.
        color: mark by colour instead of by characters.
        encoding: a codec that exists; what it lacks is escaped.
        width: columns in which lines are folded; None: none is.
    """
    text = encodable(render(_short(record), color=color, width=width), encoding)
    return text if width is None else folded(text, width)  # what was escaped for the encoding is longer


class ConsoleSink:
    """Shows each record as text. In another process a copy of it shows nothing.

    Args:
        screen: where to show it.
        color: mark by colour instead of by characters.
        encoding: what the terminal understands; what it lacks is escaped. None: UTF-8; an unknown one: ASCII.
        close_screen: whether the screen is this sink's own, to be closed with it.
    """

    def __init__(self, screen: Screen, *, color: bool, encoding: str | None, close_screen: bool = False) -> None:
        self._screen = screen
        self._color = color
        self._encoding = known_encoding(encoding)
        self._close_screen = close_screen
        self._dropped_before = screen.dropped  # what others had to show

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as the null sink: a terminal has one owner."""
        return _in_another_process, ()

    @property
    def dropped(self) -> int:
        """Records that no reader took in time."""
        return self._screen.dropped - self._dropped_before

    def __call__(self, record: Record) -> None:
        """Render one record, here, so that an error of it is the caller's; and have it shown, without waiting."""
        if record.get("event") in FOR_FILES:
            return
        self._screen.show(text_of(record, color=self._color, encoding=self._encoding))

    def close(self) -> None:
        """Wait a moment for what is still to be shown, if the screen is this sink's own."""
        if self._close_screen:
            self._screen.close()


def _short(record: Record) -> Record:
    try:
        return record if fits(record, _LONGEST_RECORD_BYTES) else shortened(record, _LONGEST_RECORD_BYTES)
    except TypeError:  # a third party's record, with what no line can hold: it can still be shown
        return record


def _in_another_process() -> Sink:
    return discard


def console_sink(context: SinkContext) -> Sink:
    """Make the console sink. Rank 0 alone speaks: one terminal, one voice."""
    if context.rank != 0:
        return discard
    screen = Screen(sys.stdout, sys.stderr) if context.screen is None else context.screen
    if screen.out is None:  # a daemon closed it: nobody reads
        return discard
    return ConsoleSink(
        screen,
        color=wants_color(screen.out, os.environ),
        encoding=encoding_of(screen.out),
        close_screen=context.screen is None,
    )
