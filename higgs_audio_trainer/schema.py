"""JSON Schema 2020-12 of every event, generated from the types in `events`."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

import msgspec
import orjson

from higgs_audio_trainer.events import EVENTS, PARTS, SCHEMA_VERSION, Envelope

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Optional marks of a line, beside envelope and payload: values that the pipeline had to change.
_MARKS = {
    "nonfinite": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Paths of values that were NaN or infinite and are null. A last entry `...` stands for more.",
    },
    "replaced": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "Paths and descriptions of values that a line cannot hold. A key `...` stands for more.",
    },
    "shortened": {
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 0},
        "description": "Paths of values shortened because the line was too long, and the original lengths.",
    },
}


def schema_of(name: str) -> dict[str, Any]:
    """Return the schema of one event, envelope and payload as one flat object.

    Raises:
        KeyError: No event has this name.

    Example:
        >>> schema_of("checkpoint")["properties"]["path"]
        {'type': 'string', 'description': 'Folder of the checkpoint, relative to the output directory.'}
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
    if parts := [part for part in PARTS if part.__name__ in components]:
        schema["$defs"] = {part.__name__: _schema_of_part(components, part) for part in parts}
    return schema


def schema_of_any() -> dict[str, Any]:
    """Return the schema of any line of a log, with the schemas of all events in `$defs`.

    Example:
        >>> schema_of_any()["oneOf"][0]
        {'$ref': 'urn:higgs-audio-trainer:event:run_start:v1'}
    """
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


def _schema_of_part(components: dict[str, Any], part: type[Any]) -> dict[str, Any]:
    return {
        "description": _summary(part),
        "type": "object",
        "properties": _described(components, part),
        "required": [item.name for item in fields(part) if _is_required(item)],
    }


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def encode(schema: dict[str, Any]) -> bytes:
    """Return the bytes of a committed schema file.

    Example:
        >>> encode({"type": "object"}).splitlines()
        [b'{', b'  "type": "object"', b'}']
    """
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _summary(cls: type[Any]) -> str:
    return str(cls.__doc__).partition("\n")[0]


def _described(components: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    properties = components[cls.__name__]["properties"]
    return {item.name: _nullable_numbers(properties[item.name]) | dict(item.metadata) for item in fields(cls)}


def _nullable_numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow null for every number, because the log writes a non-finite number as null."""
    if schema.get("type") == "number":
        return {"type": ["number", "null"]}
    if schema.get("type") is None and "anyOf" in schema:  # an optional list
        return schema | {"anyOf": [_nullable_items(one) for one in schema["anyOf"]]}
    return _nullable_items(schema)


def _nullable_items(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _nullable_numbers(value) if key in ("items", "additionalProperties") and isinstance(value, dict) else value
        for key, value in schema.items()
    }
