"""JSON Schema 2020-12 of every event, one file for each. `higgs-audio-trainer schema --write` generates the files."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["load"]


def load(event: str) -> bytes:
    """Return the schema of an event as UTF-8 JSON.

    Args:
        event: Name of the event, such as `train_step`.

    Raises:
        FileNotFoundError: The event is unknown.

    Example:
        >>> import json
        >>> json.loads(load("train_step"))["$schema"]
        'https://json-schema.org/draft/2020-12/schema'
    """
    return files(__name__).joinpath(f"{event}.json").read_bytes()
