"""Command `prepare`. Encodes the audio of manifests to codes, once."""

from __future__ import annotations

from collections.abc import Sequence

from higgs_audio_trainer.cli.argument_parser import ArgumentParser, parse_boolean
from higgs_audio_trainer.config import DEFAULT_BASE_CKPT
from higgs_audio_trainer.errors import UserError
from sinks.terminal.words import count_of


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage=f"{prog} --train_manifest FILE [flags]",
        description="Check manifests and encode their audio to codes once; `train` reuses the codes. A repeated "
        "command encodes the remaining clips.",
        epilog=f"example: {prog} --train_manifest train.jsonl --max_seconds 30",
    )
    made.add_argument(
        "--train_manifest",
        metavar="FILE",
        required=True,
        help="JSON Lines of samples to train on",
    )
    made.add_argument("--eval_manifest", metavar="FILE", help="JSON Lines of samples to evaluate on")
    made.add_argument(
        "--base_ckpt",
        metavar="NAME",
        default=DEFAULT_BASE_CKPT,
        help="base checkpoint [%(default)s]",
    )
    made.add_argument(
        "--audio_tokenizer",
        metavar="NAME",
        help="codec: a folder or a name [the codec of base_ckpt]",
    )
    made.add_argument(
        "--codes_dir",
        metavar="DIR",
        help="cache of encoded audio [~/.cache/higgs-audio-trainer/codes]",
    )
    made.add_argument(
        "--max_seconds", metavar="X", type=float, default=60.0, help="seconds of the longest clip [%(default)s]"
    )
    made.add_argument("--device", metavar="NAME", help="device that encodes [a GPU if present, else cpu]")
    made.add_argument(
        "--skip_bad_samples",
        metavar="true|false",
        type=parse_boolean,
        nargs="?",
        const=True,
        default=False,
        help="skip samples that have problems, and print the problems",
    )
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Check manifests, encode audio without codes, and return the exit status."""
    given = parser(prog).parse_args(arguments)
    if not given.max_seconds > 0:
        raise UserError(f"--max_seconds: expected more than 0, got {given.max_seconds:g}")
    from higgs_audio_trainer.training.base_checkpoint import codec_of, open_checkpoint
    from higgs_audio_trainer.training.prepare_manifests import prepare_manifests, quiet_third_parties

    quiet_third_parties()
    device = _device(given.device)
    checkpoint = open_checkpoint(given.base_ckpt)
    codec_name = given.audio_tokenizer or codec_of(given.base_ckpt)
    manifests = [manifest for manifest in (given.train_manifest, given.eval_manifest) if manifest]
    prepared = prepare_manifests(
        manifests,
        checkpoint,
        codec_name=codec_name,
        codes_dir=given.codes_dir,
        max_seconds=given.max_seconds,
        skip_bad_samples=given.skip_bad_samples,
        device=device,
    )
    for manifest, samples in zip(manifests, prepared, strict=True):
        print(f"{manifest}: {count_of(len(samples), 'sample')} ready")
    return 0


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a torch without the device
        first_line = str(error).partition("\n")[0]
        raise UserError(f"--device: expected a device that torch can use, got {name!r}: {first_line}") from error
    return name
