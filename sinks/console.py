"""The console sink: records as text on a terminal during a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from sinks.null import discard, null_sink
from sinks.protocol import Record, SharedScreen, Sink, SinkContext, SinkError
from sinks.record_text import DEFAULT_OPTIONS, RecordText, TextOptions
from sinks.rendering.record import RenderFailures
from sinks.rendering.renderers import DETAILS
from sinks.terminal.escape import known_encoding
from sinks.terminal.fold import terminal_columns
from sinks.terminal.screen import Screen
from sinks.terminal.stream import encoding_of, is_terminal
from sinks.terminal.words import count_of

#: Events that the console does not show. Log files have these events, and `show --event` prints them.
FOR_FILES = ("token_counts",)
_SHAPES = ("always", "changes")
_SPEAKER = "higgs-audio-trainer: console: "


def wants_color(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return True if text on a stream gets colour.

    NO_COLOR forbids colour, then FORCE_COLOR demands colour, then a terminal gets colour unless TERM is "dumb". A
    variable counts if the variable is set and not empty. The order is the order of Python's `_colorize`. See
    https://no-color.org and https://force-color.org.

    Example:
        >>> import io
        >>> wants_color(io.StringIO(), {"FORCE_COLOR": "1"})
        True
        >>> wants_color(io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"})
        False
    """
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return environment.get("TERM") != "dumb" and is_terminal(stream)


class ConsoleSink:
    """Sink that shows each record as text. A copy in another process shows nothing.

    A record whose renderer raises is shown field by field. The first such failure of each event is reported, and
    `close` reports the number of failures.

    Args:
        screen: Terminal for the records.
        color: True shows colours.
        encoding: Encoding of the terminal; characters that the encoding lacks are escaped. None for UTF-8. An unknown
            encoding counts as ASCII.
        close_screen: True if the sink owns and closes the screen.
        options: Amount of text.
        say: Prints a line for a person; None for a notice on the screen.
    """

    def __init__(
        self,
        screen: SharedScreen,
        *,
        color: bool,
        encoding: str | None,
        close_screen: bool = False,
        options: TextOptions = DEFAULT_OPTIONS,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._screen = screen
        self._close_screen = close_screen
        self._say = say or screen.note
        self._dropped_before = screen.dropped  # by other users of the screen
        self._failures = RenderFailures(lambda text: self._say(f"{_SPEAKER}{text}"))
        self._text_of = RecordText(
            color=color, encoding=known_encoding(encoding), options=options, on_failure=self._failures
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the null sink in a pickle or a copy, because a terminal has a single owner."""
        return null_sink, ()

    @property
    def dropped(self) -> int:
        """Number of records that no reader accepted in time."""
        return self._screen.dropped - self._dropped_before

    def __call__(self, record: Record) -> None:
        """Render a record and queue the text. The caller may change the record after the call."""
        if record.get("event") in FOR_FILES:
            return
        text = self._text_of(record, terminal_columns(self._screen.out))
        if text is not None:
            self._screen.show(text)

    def close(self) -> None:
        """Report failed renderings. If the sink owns the screen, wait a bounded time until all texts are written."""
        if failed := self._failures.count:
            self._say(f"{_SPEAKER}{count_of(failed, 'record was', 'records were')} shown field by field")
        if self._close_screen:
            self._screen.close()


def console_sink(context: SinkContext, *, detail: str = "full", shapes: str = "always") -> Sink:
    """Make the console sink of rank 0. Other ranks get the null sink, because all ranks share a terminal.

    Args:
        context: Facts about the run.
        detail: full, compact for a line for each sample, or line for a line for each step.
        shapes: always, or changes to show the shapes of a sample only where they differ from the shapes before.

    Raises:
        SinkError: An option has an unknown value.
    """
    for option, value, known in (("detail", detail, DETAILS), ("shapes", shapes, _SHAPES)):
        if value not in known:
            raise SinkError(f"--sinks: console: {option}: expected {', '.join(known)}, got {value!r}")
    if context.rank != 0:
        return discard
    screen = Screen(sys.stdout, sys.stderr) if context.screen is None else context.screen
    if screen.out is None:  # a daemon closed its standard output
        return discard
    return ConsoleSink(
        screen,
        color=wants_color(screen.out, os.environ),
        encoding=encoding_of(screen.out),
        close_screen=context.screen is None,
        options=TextOptions(detail, shapes),
        say=None if context.screen is None else context.say,
    )
