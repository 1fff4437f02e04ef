"""Flags of the columns with texts, recordings and speakers, for the commands that read samples."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.config import flags

if TYPE_CHECKING:
    from higgs_audio_trainer.data.sources import Columns


def add_column_flags(parser: ArgumentParser) -> None:
    """Add `--text_column`, `--audio_column` and `--speaker_column`, as in the settings of a training."""
    for item in flags():
        if item.name.endswith("_column"):
            parser.add_argument(f"--{item.name}", metavar="NAME", help=item.metadata["help"])


def columns_of(given: argparse.Namespace) -> Columns:
    """Return the columns of the parsed flags."""
    from higgs_audio_trainer.data.sources import Columns

    return Columns(given.text_column, given.audio_column, given.speaker_column)
