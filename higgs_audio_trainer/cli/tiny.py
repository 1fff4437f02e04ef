"""Command `tiny DIR`. Writes a tiny base checkpoint and codec."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.config import FAMILY_NAMES
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.phases import STARTING, phase
from higgs_audio_trainer.third_party_imports import prepare_imports

_DEFAULT = {"hidden_size": 128, "layers": 4, "codebooks": 8, "vocab_size": 512, "seed": 0}
_SEEDS = 2**32  # the range of transformers.set_seed


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        description="Write a tiny base checkpoint (DIR/model) and codec (DIR/codec).\n"
        "The weights are random. The file format is that of a real checkpoint.",
        epilog=f"example: {prog} tiny && higgs-audio-trainer train \\\n"
        "  --base_ckpt tiny/model --audio_tokenizer tiny/codec --train_manifest m.jsonl \\\n"
        "  --output_dir out --max_steps 30 --log_steps 5 --seed 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("dir", metavar="DIR", help="folder for new folders model and codec")
    made.add_argument(
        "--family", metavar="NAME", choices=FAMILY_NAMES, default=FAMILY_NAMES[0], help=" or ".join(FAMILY_NAMES)
    )
    made.add_argument("--hidden_size", metavar="N", type=int, help="hidden size, a multiple of 64 [%(default)s]")
    made.add_argument("--layers", metavar="N", type=int, help="decoder layers [%(default)s]")
    made.add_argument("--codebooks", metavar="N", type=int, help="codebooks [%(default)s]")
    made.add_argument("--vocab_size", metavar="N", type=int, help="rows of the text vocabulary [%(default)s]")
    made.add_argument(
        "--codec",
        choices=("dac", "higgs"),
        default="dac",
        help="class of the codec, a DAC or the Higgs codec's [%(default)s]",
    )
    made.add_argument("--seed", metavar="N", type=int, help="seed of the weights [%(default)s]")
    made.set_defaults(**_DEFAULT)
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write the checkpoint and the codec, print their paths, and return the exit status."""
    given = parser(prog).parse_args(arguments)
    if not 0 <= given.seed < _SEEDS:
        raise UserError(f"--seed: expected 0 to {_SEEDS - 1}, got {given.seed}")
    with phase(STARTING, is_slow=True):
        prepare_imports()
        from higgs_audio_trainer.demo.tiny import write_tiny
        from higgs_audio_trainer.families.tiny_size import TinySize
        from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties

    quiet_third_parties()
    size = TinySize(given.hidden_size, given.layers, given.codebooks, given.vocab_size)
    with phase("writing the checkpoint"):
        model, codec = write_tiny(Path(given.dir), size, family=given.family, codec=given.codec, seed=given.seed)
    print(f"model: {model}\ncodec: {codec}")
    return 0
