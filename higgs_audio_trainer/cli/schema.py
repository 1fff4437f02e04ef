"""`schema [EVENT]`: the JSON Schema of the log."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import schemas
from higgs_audio_trainer.cli.parser import ArgumentParser
from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EVENTS


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Print the JSON Schema (2020-12) of one event, or that of a line of the log, whatever its event.",
        epilog=f"example: {prog} prediction_sample",
    )
    made.add_argument("event", metavar="EVENT", nargs="?", help=f"one of {', '.join(EVENTS)}")
    made.add_argument("--write", action="store_true", help="write the files in schemas/ anew from the types")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Print or write schemas."""
    given = parser(prog).parse_args(arguments)
    if given.write:
        _write_all(Path(schemas.__file__).parent)
    elif given.event is None:
        from higgs_audio_trainer.schema import encode, schema_of_any  # the file of one event is there already

        sys.stdout.write(encode(schema_of_any()).decode())
    elif given.event in EVENTS:
        sys.stdout.write(schemas.load(given.event).decode())
    else:
        raise UserError(_unknown(given.event))
    return 0


def _unknown(name: str) -> str:
    return f"schema: expected one of {', '.join(EVENTS)}, got {name!r}.{suggestion(name, EVENTS)}"


def _write_all(folder: Path) -> None:
    from higgs_audio_trainer.schema import encode, schema_of

    for name in EVENTS:
        path = folder / f"{name}.json"
        path.write_bytes(encode(schema_of(name)))
        print(path)
