"""`schema [EVENT]`: the JSON Schema of the events."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import schemas
from higgs_audio_trainer.cli.options import ArgumentParser
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import EVENTS


def run(arguments: Sequence[str], prog: str) -> int:
    """Print or write schemas."""
    parser = ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description="Print the JSON Schema (2020-12) of an event, or the names of all events.",
        epilog=f"example: {prog} prediction_sample",
    )
    parser.add_argument("event", metavar="EVENT", nargs="?", help="name of an event")
    parser.add_argument("--write", action="store_true", help="write the files in schemas/ anew from the types")
    given = parser.parse_args(arguments)
    if given.write:
        _write_all(Path(schemas.__file__).parent)
    elif given.event is None:
        print("\n".join(EVENTS))
    elif given.event in EVENTS:
        sys.stdout.write(schemas.load(given.event).decode())
    else:
        raise UserError(f"schema: expected one of {', '.join(EVENTS)}, got {given.event!r}")
    return 0


def _write_all(folder: Path) -> None:
    from higgs_audio_trainer.logs.schema import encode, schema_of

    for name in EVENTS:
        path = folder / f"{name}.json"
        path.write_bytes(encode(schema_of(name)))
        print(path)
