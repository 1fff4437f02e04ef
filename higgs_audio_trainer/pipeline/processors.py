"""structlog processors of the user: `--processors` parsed, factories loaded, unusable processors refused.

A processor has structlog's signature, `(logger, method_name, event_dict) -> event_dict`. A factory returns a processor
and takes no arguments but the options of the specification. Every mistake raises `UserError` before the run begins.
`processing` runs the processors.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from higgs_audio_trainer.errors import UserError, suggestion

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Processor = structlog.typing.Processor
ProcessorFactory = Callable[..., Processor]

ENTRY_POINT_GROUP = "higgs_audio_trainer.processors"
NONE = "none"
_FLAG = "--processors"
_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")
_RENDERERS = (
    structlog.processors.JSONRenderer,
    structlog.processors.KeyValueRenderer,
    structlog.processors.LogfmtRenderer,
    structlog.dev.ConsoleRenderer,
)
_RENDERING_FUNCTIONS = (
    structlog.stdlib.render_to_log_kwargs,
    structlog.stdlib.render_to_log_args_and_kwargs,
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
)


class NamedProcessor(NamedTuple):
    """A processor and its name in messages and counters.

    Attributes:
        name: As the user wrote the name in `--processors`, or the qualified name of the callable.
        process: The callable.
    """

    name: str
    process: Processor


def load_processors(specification: str) -> list[NamedProcessor]:
    """Return the processors of a specification, in order.

    Args:
        specification: `name[:option=value]...[,...]`. A name is `package.module:factory` or an entry point of the group
            `higgs_audio_trainer.processors`. `none` and the empty text name no processor.

    Raises:
        UserError: The specification is malformed, a factory is unknown or raises, or the log cannot work with a
            processor.

    Example:
        >>> [name for name, _ in load_processors("structlog.processors:TimeStamper:fmt=iso:key=local_time")]
        ['structlog.processors:TimeStamper']
        >>> load_processors("none")
        []
    """
    if specification in ("", NONE):
        return []
    parts = [_OPTION.split(part.strip()) for part in specification.split(",")]
    names = [name for name, *_ in parts]
    if "" in names or NONE in names or len(set(names)) < len(names):
        raise UserError(
            f"{_FLAG}: expected names separated by commas, each once, or {NONE!r} alone, got {specification!r}"
        )
    factories = [(name, _find_factory(name), _parse_options(name, pairs)) for name, *pairs in parts]
    return named_processors([_make(*factory) for factory in factories], names, where=_FLAG)


def named_processors(
    processors: Iterable[Processor | NamedProcessor], names: Sequence[str] = (), *, where: str = "processors"
) -> list[NamedProcessor]:
    """Return each processor with a distinct name.

    Args:
        processors: Callables with structlog's signature.
        names: Names of the processors. Without names, the qualified names of the callables.
        where: Flag or argument for error messages.

    Raises:
        UserError: A processor is no callable, renames the event or renders the event as text.

    Example:
        >>> from structlog.contextvars import merge_contextvars
        >>> [processor.name for processor in named_processors([merge_contextvars, merge_contextvars])]
        ['structlog.contextvars.merge_contextvars', 'structlog.contextvars.merge_contextvars (2)']
    """
    made: list[NamedProcessor] = []
    uses = Counter[str]()
    for index, given in enumerate(processors):
        process = given.process if isinstance(given, NamedProcessor) else given
        name = names[index] if names else given.name if isinstance(given, NamedProcessor) else _name_of(process)
        if reason := _refusal(process):
            raise UserError(f"{where}: {name}: {reason}")
        uses[name] += 1
        distinct = f"{name} ({uses[name]})" if uses[name] > 1 else name
        made.append(NamedProcessor(distinct, _without_our_frames(process)))
    return made


def _name_of(process: Processor) -> str:
    kind = process if hasattr(process, "__qualname__") else type(process)
    return f"{kind.__module__}.{kind.__qualname__}"


def _refusal(process: Any) -> str:
    """Return why the log cannot work with a processor, empty if the log can."""
    if isinstance(process, type):
        return f"expected a processor, got the class {process.__name__}. Make an instance: {process.__name__}()"
    if not callable(process):
        return f"expected a processor (logger, method_name, event_dict), got {process!r}"
    if isinstance(process, structlog.processors.EventRenamer):
        return (
            "expected a processor that keeps the field `event`, got EventRenamer. "
            "`event` names the schema of the line, and no reader finds a renamed event. Add a field of another name"
        )
    if isinstance(process, _RENDERERS) or process in _RENDERING_FUNCTIONS:
        return (
            "expected a processor that returns the event as a mapping, got a renderer. "
            "Sinks render events: name a sink with --sinks"
        )
    return ""


def _without_our_frames(process: Processor) -> Processor:
    """Return a processor. A `CallsiteParameterAdder` becomes a copy with the caller of `emit` as the call site."""
    if not isinstance(process, structlog.processors.CallsiteParameterAdder):
        return process
    adder = copy.copy(process)
    # structlog has no public way to add a module to the ignored ones.
    adder._additional_ignores = [*adder._additional_ignores, "higgs_audio_trainer.pipeline"]  # noqa: SLF001
    return adder


def _find_factory(name: str) -> ProcessorFactory:
    from importlib.metadata import entry_points

    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in installed and ":" not in name:
        installed_names = f"Installed names: {', '.join(sorted(installed))}."
        if not installed:
            installed_names = "No processor is installed under a name."
        hint = " A colon stands before the factory's name: module:factory." if "." in name else ""
        raise UserError(
            f"{_FLAG}: expected package.module:factory or an installed name, got {name!r}. {installed_names}"
            f"{suggestion(name, installed) or hint}"
        )
    return _import_factory(name, installed.get(name))


def _import_factory(name: str, entry: EntryPoint | None) -> ProcessorFactory:
    load = partial(resolve_name, name) if entry is None else entry.load
    try:
        return load()  # type: ignore[no-any-return]
    except Exception as error:  # a third party's module may raise any exception while Python imports the module
        raise UserError(
            f"{_FLAG}: expected to load {name!r}, got {type(error).__name__}: {error}. "
            "Is its package installed or on PYTHONPATH?"
        ) from error


def _parse_options(name: str, pairs: Sequence[str]) -> dict[str, str]:
    options = dict(pair.split("=", 1) for pair in pairs)
    if len(options) < len(pairs):
        raise UserError(f"{_FLAG}: {name}: expected each option once, got {':'.join(pairs)!r}")
    return options


def _make(name: str, factory: ProcessorFactory, options: dict[str, str]) -> Processor:
    """Return the processor made by a factory."""
    try:
        called = signature(factory)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{_FLAG}: expected {name!r} to be a function that returns a processor, got {type(factory).__name__}"
        ) from error
    try:
        called.bind(**options)
    except TypeError as error:
        takes = ", ".join(called.parameters)
        if options:
            raise UserError(f"{_FLAG}: {name}: expected options: {takes or 'none'}; {error}") from error
        raise UserError(
            f"{_FLAG}: {name}: expected a factory that takes no arguments and returns a processor, got parameters "
            f"({takes}). For a processor itself, write a function that returns the processor"
        ) from error
    try:
        return factory(**options)
    except UserError:
        raise
    except Exception as error:  # a third party's factory may raise any exception
        raise UserError(f"{_FLAG}: {name} cannot be set up: {type(error).__name__}: {error}") from error
