"""Sinks: the consumers of a run's events. Imports neither torch nor the trainer.

The names in `__all__` are public. A package with a sink needs nothing else:

- `Record`, `Sink`, `SinkFactory`, `SinkContext` and `SinkError` are the contract.
- `build` makes the sinks of a specification such as `console,jsonl:dir=logs`.
- `JsonlSink` writes a log file, `MemorySink` keeps records in a list, `render` returns a record as text.

All modules of this package are implementation and may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinks.jsonl import JsonlSink
    from sinks.memory import MemorySink
    from sinks.protocol import Record, Sink, SinkContext, SinkError, SinkFactory
    from sinks.rendering.record import render
    from sinks.specification import build

__all__ = [
    "JsonlSink",
    "MemorySink",
    "Record",
    "Sink",
    "SinkContext",
    "SinkError",
    "SinkFactory",
    "build",
    "render",
]

_MODULES = {
    "jsonl": ("JsonlSink",),
    "memory": ("MemorySink",),
    "protocol": ("Record", "Sink", "SinkContext", "SinkError", "SinkFactory"),
    "rendering.record": ("render",),
    "specification": ("build",),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import the module of a public name on first use, so that `import sinks.null` loads no other sink."""
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Return the public names, which are not loaded yet."""
        return sorted({*globals(), *__all__})
