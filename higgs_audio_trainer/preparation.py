"""Manifests made ready for one checkpoint: what `prepare` and `train` share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import transformers

from higgs_audio_trainer.checkpoint import BaseCheckpoint, check_template
from higgs_audio_trainer.data.batch import PreparedSample
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.prepare import ClipLimits, check_and_encode, tokenize_samples
from higgs_audio_trainer.errors import Fault, ManifestError
from higgs_audio_trainer.progress import encoding_bar

Say = Callable[[str], None]


def prepare_manifest(
    manifest: str,
    checkpoint: BaseCheckpoint,
    *,
    codec_name: str,
    codes_dir: str | None,
    max_seconds: float,
    skip_bad_samples: bool,
    device: str,
    say: Say = print,
) -> list[PreparedSample]:
    """Check, encode and tokenize one manifest.

    Args:
        manifest: path of the manifest.
        checkpoint: what will be trained.
        codec_name: a folder, or a name on the Hub.
        codes_dir: cache of codes; None for the user's.
        max_seconds: longest clip.
        skip_bad_samples: leave out samples that have faults.
        device: where to encode.
        say: told what was encoded and what was left out.

    Raises:
        UserError: the manifest has faults, or the codec cannot be used.
    """
    cache_root = Path(codes_dir) if codes_dir else default_codes_dir()
    samples, faults, files = check_and_encode(
        manifest,
        limits=ClipLimits(checkpoint.ids.num_codebooks, checkpoint.ids.stream_bos, max_seconds),
        codec=lambda: Codec(codec_name, device=device),
        cache_root=cache_root,
        skip_bad_samples=skip_bad_samples,
        progress=encoding_bar,
    )
    if files.encoded:
        say(f"{manifest}: encoded {files.encoded} clips to {cache_root}")
    check_template(checkpoint, samples)
    max_length = checkpoint.config.max_position_embeddings
    prepared, too_long = tokenize_samples(samples, files, checkpoint.tokenizer, checkpoint.ids, max_length=max_length)
    if too_long and not (skip_bad_samples and prepared):
        raise ManifestError(too_long)
    _report_skipped(manifest, [*faults, *too_long], len(prepared), say)
    return prepared


def _report_skipped(manifest: str, faults: Sequence[Fault], used: int, say: Say) -> None:
    skipped = {fault.where for fault in faults}
    if skipped:
        say("\n".join(map(str, faults)))
        say(f"{manifest}: skipped {len(skipped)} of {len(skipped) + used} samples, listed above")


def default_codes_dir() -> Path:
    """Return the user's cache of codes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "higgs-audio-trainer" / "codes"


def quiet_third_parties() -> None:
    """Silence what a user cannot act on; errors still pass."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning at every DataLoader fork
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for module in ("transformers", "peft", "torch", "accelerate", "huggingface_hub"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
