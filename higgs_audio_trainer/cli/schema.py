"""Command `schema [EVENT]`. Prints the JSON Schema of an event or of any line of a log."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import schemas
from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EVENTS


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Print the JSON Schema (2020-12) of one event or, without EVENT, of any line of a log.",
        epilog=f"example: {prog} prediction_sample",
    )
    made.add_argument("event", metavar="EVENT", nargs="?", help=f"one of {', '.join(EVENTS)}")
    made.add_argument("--write", action="store_true", help="regenerate the files in schemas/ from the event types")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Print or write schemas and return the exit status."""
    given = parser(prog).parse_args(arguments)
    if given.write:
        _write_all(Path(schemas.__file__).parent)
    elif given.event is None:
        from higgs_audio_trainer.schema import encode, schema_of_any  # not needed for one event: its schema is a file

        sys.stdout.write(encode(schema_of_any()).decode())
    elif given.event in EVENTS:
        sys.stdout.write(schemas.load(given.event).decode())
    else:
        hint = suggestion(given.event, EVENTS)
        raise UserError(f"schema: expected one of {', '.join(EVENTS)}, got {given.event!r}.{hint}")
    return 0


def _write_all(folder: Path) -> None:
    from higgs_audio_trainer.schema import encode, schema_of

    for name in EVENTS:
        path = folder / f"{name}.json"
        path.write_bytes(encode(schema_of(name)))
        print(path)
