"""JSON Schema 2020-12 of every event, one file each. Generated from the types: `higgs-audio-trainer schema --write`."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["load"]


def load(event: str) -> bytes:
    """Return the schema of one event, as UTF-8 JSON.

    Raises:
        FileNotFoundError: there is no such event.
    """
    return files(__name__).joinpath(f"{event}.json").read_bytes()
