"""`show FILE|DIR...`: prints a log as the console sink shows it while the model trains."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from higgs_audio_trainer.cli.parser import ArgumentParser


def parser(prog: str) -> ArgumentParser:
    """Make the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage="%(prog)s FILE|DIR... [flags]",
        description="Print logs as the console shows them; of the events, only those that all flags ask for. "
        "- is standard input; .gz and .zst are read too.",
        epilog=f"example: {prog} higgs-demo/run --step 20:60 --codebook 0",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=26),
        add_help=False,
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help=argparse.SUPPRESS)
    flag = made.add_argument_group("flags").add_argument
    flag(
        "--event", metavar="NAMES", action="append", default=[], help="train_step, prediction_sample, eval_result, ..."
    )
    flag("--step", metavar="A:B", help="steps from A to B; A:, :B and A work too")
    flag("--rank", metavar="LIST", action="append", default=[], help="ranks, as in 0,3")
    flag("--modality", metavar="NAME", help="samples of text, or of audio")
    flag("--codebook", metavar="LIST", action="append", default=[], help="samples of these codebooks, as in 0,7")
    flag("--split", metavar="NAME", help="samples of train, or of eval")
    flag("--sample-id", metavar="ID", action="append", default=[], help="samples of an id or a fingerprint; repeatable")
    flag("--mismatches-only", action="store_true", help="samples with a wrong prediction")
    flag("--all-attempts", action="store_true", help="steps that a resume made anew, too")
    flag("--raw", action="store_true", help="the lines as they are, JSON for jq; nothing is escaped")
    flag("-f", "--follow", action="store_true", help="go on with what a running training adds")
    flag("--width", metavar="N", help="fold lines in N columns")
    flag("--no-pager", action="store_true", help="print at once; else $PAGER or less, on a terminal")
    flag("--summary", action="store_true", help="one screen: losses, accuracies, alarms, gaps, cost")
    flag("-h", "--help", action="help", help="print this")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Print logs.

    Raises:
        UserError: a flag is wrong, or no log can be read.
    """
    given = parser(prog).parse_args(arguments)
    from higgs_audio_trainer.cli.display import show  # not needed for --help, which ends before

    return show(given)
