"""Command `show FILE|DIR...`. Prints a log like the console sink during the training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.limits_flag import add_no_limits


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage="%(prog)s FILE|DIR... [flags]",
        description="Print matching events like the console, also of .gz, .zst and - (--no-limits).",
        epilog=f"example: {prog} higgs-demo/run --step 20:60 --codebook 0",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=26),
        add_help=False,
    )
    made.add_argument("paths", metavar="FILE|DIR", nargs="+", help=argparse.SUPPRESS)
    flag = made.add_argument_group("flags").add_argument
    flag(
        "--event", metavar="NAMES", action="append", default=[], help="train_step, prediction_sample, eval_result, ..."
    )
    flag("--step", metavar="A:B", help="steps from A to B, also A:, :B and A")
    flag("--rank", metavar="LIST", action="append", default=[], help="ranks, like 0,3")
    flag("--modality", metavar="NAME", help="samples of text or audio")
    flag("--codebook", metavar="LIST", action="append", default=[], help="samples of these codebooks, like 0,7")
    flag("--split", metavar="NAME", help="samples of train, eval or probe")
    flag(
        "--sample-id",
        metavar="ID",
        action="append",
        default=[],
        help="samples and probes by id or fingerprint; repeatable",
    )
    flag("--mismatches-only", action="store_true", help="samples with a wrong prediction")
    flag("--run", metavar="ID", help="one of several runs; a prefix is enough [the latest]")
    flag("--all-attempts", action="store_true", help="every attempt of steps that were repeated")
    flag("--raw", action="store_true", help="unchanged JSON lines for jq; nothing is escaped")
    flag("-f", "--follow", action="store_true", help="continue with new events of a running training")
    flag("--width", metavar="N", help="wrap lines at N columns [the terminal]")
    flag(
        "--console",
        metavar="DETAIL",
        choices=("full", "compact", "line"),  # config.CONSOLE_DETAILS, without the slow imports of config
        default="full",
        help="full, compact: a line a sample, or line: a line a step",
    )
    flag("--log_samples", metavar="N", help="first N samples of each step; 0: none [all]")
    flag("--no-pager", action="store_true", help="do not use $PAGER or less on a terminal")
    flag("--summary", action="store_true", help="one screen: losses, accuracies, problems, gaps, cost")
    add_no_limits(made, is_listed=False)  # the help fits a terminal, and the description names the flag
    flag("-h", "--help", action="help", help=argparse.SUPPRESS)
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Print logs and return the exit status.

    Raises:
        UserError: A flag is wrong, or no log can be read.
    """
    given = parser(prog).parse_args(arguments)
    from higgs_audio_trainer.cli.event_printer import print_events, print_summaries  # slow, and --help ends before

    return print_summaries(given) if given.summary else print_events(given)
