"""The consumers of a run's events: console, JSONL file, nothing, or a third party's.

Imports neither torch nor the trainer. `build("console,jsonl:dir=logs", context)` makes the sinks that a
specification names; see `parse` for its grammar.
"""

from __future__ import annotations

from sinks.console import ConsoleSink
from sinks.jsonl import JsonlSink
from sinks.memory import MemorySink
from sinks.protocol import Factory, Record, Sink, SinkContext, SinkError
from sinks.render import render
from sinks.screen import Screen
from sinks.specification import ENTRY_POINT_GROUP, SinkSpec, build, load, parse, resolve

__all__ = [
    "ENTRY_POINT_GROUP",
    "ConsoleSink",
    "Factory",
    "JsonlSink",
    "MemorySink",
    "Record",
    "Screen",
    "Sink",
    "SinkContext",
    "SinkError",
    "SinkSpec",
    "build",
    "load",
    "parse",
    "render",
    "resolve",
]
