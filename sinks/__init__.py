"""The consumers of a run's events: console, JSONL file, nothing, or a third party's.

Imports neither torch nor the trainer. `build("console,jsonl:dir=logs", context)` makes the sinks that a
specification names; see `parse` for its grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points

from sinks.console import ConsoleSink, console_sink
from sinks.jsonl import JsonlSink, jsonl_sink
from sinks.memory import MemorySink
from sinks.null import null_sink
from sinks.protocol import Factory, Record, Sink, SinkContext, SinkError
from sinks.render import render

__all__ = [
    "ENTRY_POINT_GROUP",
    "ConsoleSink",
    "Factory",
    "JsonlSink",
    "MemorySink",
    "Record",
    "Sink",
    "SinkContext",
    "SinkError",
    "SinkSpec",
    "build",
    "parse",
    "render",
    "resolve",
]

ENTRY_POINT_GROUP = "higgs_audio_trainer.sinks"
NONE = "none"
_BUILT_IN: dict[str, Factory] = {"console": console_sink, "jsonl": jsonl_sink, "null": null_sink}
_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """One sink as asked for: its name and its options."""

    name: str
    options: dict[str, str]


def parse(specification: str) -> list[SinkSpec]:
    """Parse `name[:option=value]...[,...]`; `none` alone is no sink at all.

    A name is `console`, `jsonl`, `null`, an entry point of the group `higgs_audio_trainer.sinks`, or
    `package.module:factory`.

    Raises:
        SinkError: the specification is empty, names a sink twice, or mixes `none` with others.
    """
    parts = [part.strip() for part in specification.split(",")]
    if parts == [NONE]:
        return []
    specs = []
    for part in parts:
        name, *options = _OPTION.split(part)
        specs.append(SinkSpec(name, dict(option.split("=", 1) for option in options)))
    names = [spec.name for spec in specs]
    if "" in names or NONE in names or len(set(names)) < len(names):
        raise SinkError(
            f"--sinks: expected names separated by commas, each once, or {NONE!r} alone, got {specification!r}"
        )
    return specs


def resolve(name: str) -> Factory:
    """Find a sink's factory by its name.

    Raises:
        SinkError: there is no such sink; the message lists those there are.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    try:
        if name in installed:
            factory = installed[name].load()
        elif ":" in name:
            module, _, attribute = name.partition(":")
            factory = getattr(import_module(module), attribute)
        else:
            raise SinkError(_unknown(name, [*_BUILT_IN, NONE, *installed]))
    except (ImportError, AttributeError, ValueError) as error:
        raise SinkError(f"--sinks: cannot load {name!r}: {error}. Is its package installed or on PYTHONPATH?") from error
    if not callable(factory):
        raise SinkError(f"--sinks: expected {name!r} to be a function, got {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]


def _unknown(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    nearest = get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"--sinks: expected one of {', '.join(known)} or package.module:factory, got {name!r}.{hint}"


def build(specification: str, context: SinkContext) -> list[tuple[str, Sink]]:
    """Make every sink that a specification names, in its order.

    Raises:
        SinkError: a sink is unknown, its options are wrong, or it cannot be set up.
    """
    built = []
    for spec in parse(specification):
        factory = resolve(spec.name)
        try:
            built.append((spec.name, factory(context, **spec.options)))
        except TypeError as error:
            raise SinkError(f"--sinks: {spec.name} does not take these options ({error}), got {spec.options}") from error
    return built
