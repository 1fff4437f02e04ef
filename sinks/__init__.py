"""The consumers of a run's events: console, JSONL file, nothing, or a third party's.

Imports neither torch nor the trainer. `build("console,jsonl:dir=logs", context)` makes the sinks that a
specification names; see `parse` for its grammar.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinks.console import ConsoleSink
    from sinks.jsonl import JsonlSink
    from sinks.memory import MemorySink
    from sinks.protocol import Factory, Record, Sink, SinkContext, SinkError
    from sinks.rendering import render
    from sinks.specification import ENTRY_POINT_GROUP, SinkSpec, build, load, parse, resolve
    from sinks.terminal.screen import Screen

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

_HOMES = {
    "console": ("ConsoleSink",),
    "jsonl": ("JsonlSink",),
    "memory": ("MemorySink",),
    "protocol": ("Factory", "Record", "Sink", "SinkContext", "SinkError"),
    "rendering": ("render",),
    "terminal.screen": ("Screen",),
    "specification": ("ENTRY_POINT_GROUP", "SinkSpec", "build", "load", "parse", "resolve"),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name of `__all__` when it is asked for: whoever borrows an escape needs no sink."""
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
