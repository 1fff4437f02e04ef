"""Sinks from a specification such as `console,jsonl:dir=logs`.

`build` parses the specification, finds the factories, checks the options and calls the factories. Every mistake raises
a `SinkError` before the run begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from sinks.console import console_sink
from sinks.jsonl_options import jsonl_sink
from sinks.null import null_sink
from sinks.protocol import Sink, SinkContext, SinkError, SinkFactory

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "higgs_audio_trainer.sinks"
NONE = "none"
_BUILT_IN: dict[str, SinkFactory] = {"console": console_sink, "jsonl": jsonl_sink, "null": null_sink}
#: Factories that are imported on first use.
_TRACKERS = {name: f"sinks.trackers.{name}:factory" for name in ("trackio", "tensorboard", "wandb", "mlflow")}
_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """Name and options of a sink in a specification.

    Attributes:
        name: Name of the sink, or `package.module:factory`.
        options: Values by the names of the options.
    """

    name: str
    options: dict[str, str]


def parse(specification: str) -> list[SinkSpec]:
    """Return the sinks of a specification. `none` alone returns an empty list.

    Args:
        specification: `name[:option=value]...[,...]`. A name is `console`, `jsonl`, `null`, a tracker (`trackio`,
            `tensorboard`, `wandb`, `mlflow`), an entry point of the group `higgs_audio_trainer.sinks`, or
            `package.module:factory`.

    Raises:
        SinkError: The specification is empty, repeats a sink or an option, or mixes `none` with other names.

    Example:
        >>> parse("console,jsonl:dir=logs:keep=3")[1]
        SinkSpec(name='jsonl', options={'dir': 'logs', 'keep': '3'})
        >>> parse("none")
        []
    """
    parts = [part.strip() for part in specification.split(",")]
    if parts == [NONE]:
        return []
    specs = [_parse_one(part) for part in parts]
    names = [spec.name for spec in specs]
    if "" in names or NONE in names or len(set(names)) < len(names):
        raise SinkError(
            f"--sinks: expected names separated by commas, each once, or {NONE!r} alone, got {specification!r}"
        )
    return specs


def _parse_one(part: str) -> SinkSpec:
    name, *pairs = _OPTION.split(part)
    options = dict(pair.split("=", 1) for pair in pairs)
    if len(options) < len(pairs):
        raise SinkError(f"--sinks: {name}: expected each option once, got {part!r}")
    return SinkSpec(name, options)


def resolve(name: str) -> SinkFactory:
    """Return the factory of a sink.

    Args:
        name: Name in a specification; see `parse`.

    Raises:
        SinkError: The sink is unknown, and the message lists the known sinks. Or the factory cannot be imported.

    Example:
        >>> resolve("null").__name__
        'null_sink'
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name in _TRACKERS:
        return resolve_name(_TRACKERS[name])  # type: ignore[no-any-return]
    from importlib.metadata import entry_points  # noqa: PLC0415 - imports slower than all sinks together

    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in installed and (":" not in name or name.partition(":")[0] in (*_BUILT_IN, *_TRACKERS, *installed)):
        raise SinkError(_unknown(name, [*_BUILT_IN, *_TRACKERS, NONE, *installed]))
    return _load(name, installed.get(name))


def _unknown(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    head, _, rest = name.partition(":")
    if head in known:
        return f"--sinks: expected options of {head} as {head}:option=value, got {rest!r}"
    from difflib import get_close_matches  # noqa: PLC0415 - needed for an unknown name only

    nearest = get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    if "=" in name:
        hint = " Write a colon before each option: jsonl:max_bytes=1M:keep=3."
    return f"--sinks: expected one of {', '.join(known)} or package.module:factory, got {name!r}.{hint}"


def _load(name: str, entry: EntryPoint | None) -> SinkFactory:
    load = partial(resolve_name, name) if entry is None else entry.load
    try:
        factory = load()
    except Exception as error:  # any exception from the import of a third-party module
        raise SinkError(
            f"--sinks: expected to load {name!r}, got {type(error).__name__}: {error}. "
            "Is its package installed or on PYTHONPATH?"
        ) from error
    try:
        signature(factory)
    except (TypeError, ValueError) as error:
        raise SinkError(
            f"--sinks: expected {name!r} to be a function (context, **options), got {type(factory).__name__}"
        ) from error
    return factory  # type: ignore[no-any-return]


def load(specification: str) -> list[tuple[SinkSpec, SinkFactory]]:
    """Return the sinks of a specification with their factories, after a check of the options. No sink is made.

    Raises:
        SinkError: The specification is malformed, or a sink or an option is unknown.

    Example:
        >>> [spec.name for spec, factory in load("console,null")]
        ['console', 'null']
        >>> load("null:color=red")
        Traceback (most recent call last):
        sinks.protocol.SinkError: --sinks: null: expected options: none; got an unexpected keyword argument 'color'
    """
    found = [(spec, resolve(spec.name)) for spec in parse(specification)]
    for spec, factory in found:
        _check_options(spec, factory)
    return found


def _check_options(spec: SinkSpec, factory: SinkFactory) -> None:
    called = signature(factory)
    try:
        called.bind(None, **spec.options)
    except TypeError as error:
        takes = ", ".join(list(called.parameters)[1:]) or "none"
        raise SinkError(f"--sinks: {spec.name}: expected options: {takes}; {error}") from error


def build(specification: str, context: SinkContext) -> list[tuple[str, Sink]]:
    """Make the sinks of a specification.

    Args:
        specification: Names and options, such as `console,jsonl:dir=logs`; see `parse`.
        context: Facts about the run for the factories.

    Returns:
        Name and sink of each entry, in the order of the specification.

    Raises:
        SinkError: The specification is malformed, a sink or an option is unknown, or a sink cannot be set up.

    Example:
        >>> [(name, sink)] = build("null", SinkContext("out", "a-run", rank=0, attempt=0))
        >>> sink({"event": "checkpoint", "path": "checkpoint-20"})
    """
    return [(spec.name, _make(spec, factory, context)) for spec, factory in load(specification)]


def _make(spec: SinkSpec, factory: SinkFactory, context: SinkContext) -> Sink:
    try:
        sink = factory(context, **spec.options)
    except SinkError:
        raise
    except Exception as error:  # any exception of a third-party factory
        raise SinkError(f"--sinks: {spec.name} cannot be set up: {type(error).__name__}: {error}") from error
    if not callable(sink):
        raise SinkError(f"--sinks: {spec.name}: expected its factory to return a callable, got {sink!r}")
    return sink
