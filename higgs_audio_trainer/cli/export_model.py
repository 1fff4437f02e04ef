"""Command `export-model OUT DIR`. Writes a whole checkpoint: the base checkpoint with an adapter merged into it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from higgs_audio_trainer.cli.argument_parser import ArgumentParser, add_quantization, bits_of
from higgs_audio_trainer.output_dir.checkpoints import trained_precision
from higgs_audio_trainer.phases import STARTING, phase
from higgs_audio_trainer.third_party_imports import prepare_imports
from sinks.terminal.screen import say_on_stderr


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Merge the adapter in OUT, the output directory of a training or a checkpoint,\n"
        "into its base checkpoint. The result is loaded as the base checkpoint is,\n"
        "without peft.",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30),
        epilog=f"example: {prog} out merged",
    )
    made.add_argument("out", metavar="OUT", help="output directory of a training, or a checkpoint")
    made.add_argument("dir", metavar="DIR", help="folder to write; must not hold files")
    made.add_argument("--base_ckpt", metavar="NAME", help="base checkpoint [the one that the adapter names]")
    made.add_argument(
        "--layout", metavar="NAME", help="of TTS 3: original, which servers load, or port [original]; of v2: native"
    )
    add_quantization(made, "merge into weights dequantized from {} bit, or --load_in_{}bit")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write the checkpoint, and return the exit status.

    Raises:
        UserError: The adapter or the base checkpoint cannot be loaded, or the folder holds files.
    """
    given = parser(prog).parse_args(arguments)
    with phase(STARTING, is_slow=True):
        prepare_imports()
        from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
        from higgs_audio_trainer.training.whole_checkpoint import export_model

    quiet_third_parties()
    bits = bits_of(given)
    adapter = export_model(given.out, Path(given.dir), base_ckpt=given.base_ckpt, layout=given.layout, bits=bits)
    merged = "full" if bits is None else f"{bits} bit"
    if (trained := trained_precision(adapter)) not in (None, merged):
        say_on_stderr(
            f"{adapter}: trained on the base checkpoint in {trained}, merged into the base checkpoint in {merged}. The "
            "two differ by rounding"
        )
    print(f"{given.dir}: the base checkpoint with {adapter} merged into its weights")
    return 0
