"""The console sink: what a person reads while the model trains."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm

from sinks.escape import encodable
from sinks.null import discard
from sinks.protocol import Record, Sink, SinkContext
from sinks.render import render


def wants_color(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Decide on colour: NO_COLOR forbids it, then FORCE_COLOR asks for it, then a terminal gets it unless TERM=dumb.

    The order is Python's own (`_colorize`). See https://no-color.org and https://force-color.org: a variable counts
    when it is set and not empty.
    """
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return environment.get("TERM") != "dumb" and stream.isatty()


class ConsoleSink:
    """Writes each record as text.

    Each record is one write, so that lines of another process cannot fall between; a progress bar on the same
    terminal is taken away before it and drawn again after it.

    Args:
        stream: where to write.
        color: mark by colour instead of by characters.
    """

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        self._stream = stream
        self._color = color
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def __call__(self, record: Record) -> None:
        """Write one record."""
        text = encodable(render(record, color=self._color) + "\n", self._encoding)
        with tqdm.external_write_mode(file=self._stream):
            self._stream.write(text)
            self._stream.flush()


def console_sink(context: SinkContext) -> Sink:
    """Make the console sink. Rank 0 alone speaks: one terminal, one voice."""
    if context.rank != 0:
        return discard
    if sys.stdout is None:  # a daemon closed it: nobody reads
        return discard
    return ConsoleSink(sys.stdout, color=wants_color(sys.stdout, os.environ))
