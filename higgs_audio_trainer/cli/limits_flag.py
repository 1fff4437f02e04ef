"""Flag `--no-limits` of the commands that read files of others."""

from __future__ import annotations

import argparse
from typing import Any

from higgs_audio_trainer.bounds import FLAG, lift
from higgs_audio_trainer.cli.argument_parser import unlist

MEANING = "read compressed data that grow without bound, and any number of empty or invalid lines"


class _Lift(argparse.Action):
    """Action to lift the bounds of reading until the end of the command."""

    def __call__(self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        setattr(namespace, self.dest, True)
        lift()


def add_no_limits(parser: argparse.ArgumentParser, *, is_listed: bool = True) -> None:
    """Add the flag to a parser, whose help lists the flag unless `is_listed` is False."""
    flag = parser.add_argument(FLAG, action=_Lift, nargs=0, default=False, help=MEANING)
    if not is_listed:
        unlist(flag)
