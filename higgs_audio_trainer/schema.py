"""JSON Schema 2020-12 of every event, made from the types in `events`."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

import msgspec
import orjson

from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION, Envelope, Event, Window

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: What a line may carry beside envelope and payload: marks of what its values could not hold.
_MARKS = {
    "nonfinite": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Paths of values that were NaN or infinite; they are null. `...` last: there were more.",
    },
    "replaced": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "Paths of values that no line can hold, and what stood there. The key `...`: there were more.",
    },
    "shortened": {
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 0},
        "description": "Paths of values cut because the line was too long, and how long they were.",
    },
}


def schema_of(name: str) -> dict[str, Any]:
    """Make the schema of one event: envelope and payload as one flat object.

    Raises:
        KeyError: there is no such event.
    """
    event = EVENTS[name]
    _, components = msgspec.json.schema_components([Envelope, event], ref_template="#/$defs/{name}")
    properties = _described(components, Envelope) | _described(components, event)
    properties["event"] = {"const": name, "description": properties["event"]["description"]}
    properties["v"] = {"const": SCHEMA_VERSION, "description": properties["v"]["description"]}
    schema: dict[str, Any] = {
        "$schema": DIALECT,
        "$id": _id_of(name),
        "title": name,
        "description": _summary(event),
        "type": "object",
        "properties": properties | _MARKS,
        "required": [item.name for item in (*fields(Envelope), *fields(event)) if _is_required(item)],
    }
    if Window.__name__ in components:
        schema["$defs"] = {Window.__name__: _schema_of_window(components)}
    return schema


def schema_of_any() -> dict[str, Any]:
    """Make the schema of a line of the log: one of the events, whose schemas it holds."""
    return {
        "$schema": DIALECT,
        "$id": f"urn:higgs-audio-trainer:event:v{SCHEMA_VERSION}",
        "title": "event",
        "description": "One line of the log.",
        "oneOf": [{"$ref": _id_of(name)} for name in EVENTS],
        "$defs": {name: schema_of(name) for name in EVENTS},
    }


def _id_of(name: str) -> str:
    return f"urn:higgs-audio-trainer:event:{name}:v{SCHEMA_VERSION}"


def _schema_of_window(components: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": _summary(Window),
        "type": "object",
        "properties": _described(components, Window),
        "required": [item.name for item in fields(Window) if _is_required(item)],
    }


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def encode(schema: dict[str, Any]) -> bytes:
    """Write a schema as the committed files hold it."""
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _summary(cls: type[Event | Window]) -> str:
    return str(cls.__doc__).partition("\n")[0]


def _described(components: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    properties = components[cls.__name__]["properties"]
    return {item.name: _nullable_numbers(properties[item.name]) | dict(item.metadata) for item in fields(cls)}


def _nullable_numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """Let every number be null: that is how a non-finite one is written."""
    if schema.get("type") == "number":
        return {"type": ["number", "null"]}
    return {
        key: _nullable_numbers(value) if key in ("items", "additionalProperties") and isinstance(value, dict) else value
        for key, value in schema.items()
    }
