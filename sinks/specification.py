"""From `console,jsonl:dir=logs` to sinks: parse the specification, find the factories, check their options, call them.

Everything that can be wrong is said as a `SinkError`, before the run begins.
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
from sinks.jsonl import jsonl_sink
from sinks.null import null_sink
from sinks.protocol import Factory, Sink, SinkContext, SinkError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "higgs_audio_trainer.sinks"
NONE = "none"
_BUILT_IN: dict[str, Factory] = {"console": console_sink, "jsonl": jsonl_sink, "null": null_sink}
#: Imported when they are named: each brings what a tracker's sink needs.
_TRACKERS = {name: f"sinks.trackers.{name}:factory" for name in ("trackio", "tensorboard", "wandb", "mlflow")}
_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """One sink as asked for: its name and its options."""

    name: str
    options: dict[str, str]


def parse(specification: str) -> list[SinkSpec]:
    """Parse `name[:option=value]...[,...]`; `none` alone is no sink at all.

    A name is `console`, `jsonl`, `null`, a tracker (`trackio`, `tensorboard`, `wandb`, `mlflow`), an entry point of the
    group `higgs_audio_trainer.sinks`, or `package.module:factory`.

    Raises:
        SinkError: the specification is empty, names a sink or an option twice, or mixes `none` with others.
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


def resolve(name: str) -> Factory:
    """Find a sink's factory by its name.

    Raises:
        SinkError: there is no such sink; the message lists those there are.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name in _TRACKERS:
        return resolve_name(_TRACKERS[name])  # type: ignore[no-any-return]
    from importlib.metadata import entry_points  # noqa: PLC0415 - takes longer to import than all sinks together

    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in installed and (":" not in name or name.partition(":")[0] in (*_BUILT_IN, *_TRACKERS, *installed)):
        raise SinkError(_unknown(name, [*_BUILT_IN, *_TRACKERS, NONE, *installed]))
    return _load(name, installed.get(name))


def _unknown(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    head, _, rest = name.partition(":")
    if head in known:
        return f"--sinks: expected options of {head} as {head}:option=value, got {rest!r}"
    from difflib import get_close_matches  # noqa: PLC0415 - for a wrong name alone

    nearest = get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    if "=" in name:
        hint = " A colon stands before each option: jsonl:max_bytes=1M:keep=3."
    return f"--sinks: expected one of {', '.join(known)} or package.module:factory, got {name!r}.{hint}"


def _load(name: str, entry: EntryPoint | None) -> Factory:
    load = partial(resolve_name, name) if entry is None else entry.load
    try:
        factory = load()
    except Exception as error:  # whatever a third party's module raises while it is imported
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


def load(specification: str) -> list[tuple[SinkSpec, Factory]]:
    """Find the factories that a specification names and check their options; nothing is made yet.

    Raises:
        SinkError: the specification is malformed, or a sink or an option of it is unknown.
    """
    found = [(spec, resolve(spec.name)) for spec in parse(specification)]
    for spec, factory in found:
        _check_options(spec, factory)
    return found


def _check_options(spec: SinkSpec, factory: Factory) -> None:
    called = signature(factory)
    try:
        called.bind(None, **spec.options)
    except TypeError as error:
        takes = ", ".join(list(called.parameters)[1:]) or "none"
        raise SinkError(f"--sinks: {spec.name}: expected options: {takes}; {error}") from error


def build(specification: str, context: SinkContext) -> list[tuple[str, Sink]]:
    """Make every sink that a specification names, in its order.

    Raises:
        SinkError: as `load`, or a sink cannot be set up.
    """
    return [(spec.name, _make(spec, factory, context)) for spec, factory in load(specification)]


def _make(spec: SinkSpec, factory: Factory, context: SinkContext) -> Sink:
    try:
        sink = factory(context, **spec.options)
    except SinkError:
        raise
    except Exception as error:  # whatever a third party's factory raises
        raise SinkError(f"--sinks: {spec.name} cannot be set up: {type(error).__name__}: {error}") from error
    if not callable(sink):
        raise SinkError(f"--sinks: {spec.name}: expected its factory to return a callable, got {sink!r}")
    return sink
